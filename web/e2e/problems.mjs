// node e2e/problems.mjs URL DIRECTORY: the list of configuration problems behind the mesh's chip,
// opened by keyboard. Prints one JSON object of what was seen. Needs Chromium, and a problem.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [url, directory] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const seen = { violations: [], pictures: [] };
for (const theme of ["light", "dark"]) {
  const page = await browser.newPage({
    viewport: { width: 1440, height: 900 },
    colorScheme: theme,
    bypassCSP: true, // For axe, which is evaluated in the page.
  });
  await page.goto(url);
  const chip = page.getByRole("button", { name: /problem/ });
  await chip.focus();
  await page.keyboard.press("Enter");
  const list = page.getByRole("dialog");
  await list.locator("li").first().waitFor();
  seen.chip = await chip.innerText();
  seen.list = await list.innerText();
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run());
  seen.violations.push(...found.violations.map((v) => `${v.id}: ${v.nodes[0].html.slice(0, 120)}`));
  const picture = `${directory}/problems-${theme}.png`;
  await page.screenshot({ path: picture });
  seen.pictures.push(picture);
  await page.close();
}
await browser.close();
console.log(JSON.stringify(seen));
