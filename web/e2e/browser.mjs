// What the scripts of this directory share: a headless Chromium, its pages, and axe.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
  });
}

/** A page in one theme and size. */
export function page(browser, theme, width = 1440, height = 900) {
  return browser.newPage({
    viewport: { width, height },
    colorScheme: theme,
    bypassCSP: true, // For axe, which is evaluated in the page.
  });
}

/** What offends accessibility rules, with the first place of each. */
export async function violations(shown) {
  await shown.evaluate(axe);
  const found = await shown.evaluate(() => globalThis.axe.run());
  return found.violations.map((v) => `${v.id}: ${v.nodes[0].html.slice(0, 120)}`);
}
