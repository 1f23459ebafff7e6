// node e2e/screenshot.mjs URL FILE [light|dark] [WIDTH] [HEIGHT] [SELECTOR-TO-CLICK]
import { chromium } from "playwright-core";

const [url, file, theme = "light", width = "1440", height = "900", click] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const page = await browser.newPage({
  viewport: { width: Number(width), height: Number(height) },
  colorScheme: theme,
});
const complaints = [];
page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
page.on("pageerror", (error) => complaints.push(String(error)));
const began = Date.now();
await page.goto(url);
await page.locator(".graph-overlay, .graph-table").waitFor();
console.log(`first graph after ${Date.now() - began} ms`);
await page.waitForTimeout(2500);
if (click) await page.locator(click).first().click();
await page.waitForTimeout(500);
await page.screenshot({ path: file });
await browser.close();
complaints.forEach((text) => console.error(text));
process.exit(complaints.length > 0 ? 1 : 0);
