// node e2e/problems.mjs URL DIRECTORY: the list of configuration problems behind the mesh's chip,
// opened by keyboard. Prints one JSON object of what was seen. Needs Chromium, and a problem.
import { launch, page as newPage, violations } from "./browser.mjs";

const [url, directory] = process.argv.slice(2);
const browser = await launch();
const seen = { violations: [], pictures: [] };
for (const theme of ["light", "dark"]) {
  const page = await newPage(browser, theme);
  await page.goto(url);
  const chip = page.getByRole("button", { name: /problem/ });
  await chip.focus();
  await page.keyboard.press("Enter");
  const list = page.getByRole("dialog");
  await list.locator("li").first().waitFor();
  seen.chip = await chip.innerText();
  seen.list = await list.innerText();
  seen.violations.push(...(await violations(page)));
  const picture = `${directory}/problems-${theme}.png`;
  await page.screenshot({ path: picture });
  seen.pictures.push(picture);
  await page.close();
}
await browser.close();
console.log(JSON.stringify(seen));
