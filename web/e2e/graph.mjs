// node e2e/graph.mjs URL DIRECTORY EDGES: the traffic graph of a running mesh, in a real browser,
// once that many edges are there. Prints one JSON object of what was seen; screenshots go into the
// directory. Needs Chromium.
import { launch, page as newPage, violations } from "./browser.mjs";

const [url, directory, edges = "1"] = process.argv.slice(2);
const browser = await launch();
const seen = { complaints: [], elsewhere: [], pictures: [] };

/** The page at one size and theme, with the graph drawn. */
async function open(theme, width, height) {
  const page = await newPage(browser, theme, width, height);
  page.on("console", (m) => m.type() === "error" && seen.complaints.push(m.text()));
  page.on("pageerror", (error) => seen.complaints.push(String(error)));
  page.on("request", (request) => {
    const known = request.url().startsWith(url) || /^(?:data|blob):/.test(request.url());
    if (!known) seen.elsewhere.push(request.url());
  });
  return page;
}

/** What Cytoscape holds: nodes with place, frame and name; edges with label and lock. */
function graph(page) {
  return page.evaluate(() => {
    const { cy } = document.querySelector(".graph-canvas")._cyreg;
    return {
      nodes: cy.nodes().map((n) => ({
        id: n.id(),
        label: n.data("label"),
        kind: n.data("kind"),
        parent: n.parent().first().data("label") ?? null,
        x: Math.round(n.renderedPosition("x")),
        y: Math.round(n.renderedPosition("y")),
      })),
      edges: cy.edges().map((e) => ({
        source: e.source().id(),
        target: e.target().id(),
        label: e.data("label"),
        mtls: e.data("mtls"),
      })),
    };
  });
}

async function drawn(page) {
  const all = (wanted) => {
    const cy = document.querySelector(".graph-canvas")?._cyreg?.cy;
    return cy !== undefined && cy.edges().length >= wanted && document.fonts.status === "loaded";
  };
  await page.waitForFunction(all, Number(edges));
}

/** Servers have reported on every edge: what only its client has told of has no lock yet. */
async function secured(page) {
  await page.waitForFunction(() => {
    const { cy } = document.querySelector(".graph-canvas")._cyreg;
    return cy.edges().every((e) => e.data("mtls") === 1);
  });
}

/** The layout of the last new node is done: for half a second nothing has moved. */
async function settled(page) {
  await page.waitForFunction(() => {
    const { cy } = document.querySelector(".graph-canvas")._cyreg;
    const places = JSON.stringify(cy.nodes().map((n) => n.renderedPosition()));
    const last = (globalThis.lastSeen ??= {});
    if (last.places !== places) Object.assign(last, { places, since: performance.now() });
    return performance.now() - last.since > 500;
  });
}

const page = await open("light", 1440, 900);
const began = Date.now();
await page.goto(url);
await drawn(page);
seen.firstGraphMs = Date.now() - began;
seen.transferred = await page.evaluate(() =>
  performance
    .getEntriesByType("resource")
    .filter((entry) => /\.(?:js|css)$/.test(entry.name))
    .reduce((sum, entry) => sum + entry.encodedBodySize, 0),
);
await secured(page);
await settled(page);
seen.graph = await graph(page);
// A second answer of the telemetry, announced by an event, changes numbers and nothing else.
const age = page.locator(".age");
seen.age = await age.innerText();
await page.waitForResponse((response) => response.url().includes("/api/graph"));
await page.waitForResponse((response) => response.url().includes("/api/graph"));
seen.later = await graph(page);
seen.violations = await violations(page);

// By keyboard alone: the table twin, and a row of it.
await page.getByRole("button", { name: "Table" }).focus();
await page.keyboard.press("Enter");
await page.locator(".graph-table tbody tr").first().waitFor();
seen.rows = await page.locator(".graph-table tbody tr").count();
seen.address = page.url();
seen.tableViolations = await violations(page);
await page.close();

for (const theme of ["light", "dark"]) {
  for (const [width, height] of [[1440, 900], [1024, 768]]) {
    const shown = await open(theme, width, height);
    await shown.goto(url);
    await drawn(shown);
    const picture = `${directory}/graph-${theme}-${width}.png`;
    await shown.screenshot({ path: picture });
    seen.pictures.push(picture);
    seen.overflow ??= 0;
    seen.overflow = Math.max(
      seen.overflow,
      await shown.evaluate(() => document.documentElement.scrollWidth - innerWidth),
    );
    await shown.close();
  }
}
await browser.close();
console.log(JSON.stringify(seen));
