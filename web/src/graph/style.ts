import type { StylesheetJson } from "cytoscape";

export interface Palette {
  text: string;
  subtle: string;
  surface: string;
  raised: string;
  line: string;
  healthy: string;
  degraded: string;
  failure: string;
  idle: string;
  accent: string;
  font: string;
}

const TOKENS: Record<keyof Palette, [string, string]> = {
  text: ["--pf-t--global--text--color--regular", "#151515"],
  subtle: ["--pf-t--global--text--color--subtle", "#6a6e73"],
  surface: ["--pf-t--global--background--color--primary--default", "#ffffff"],
  raised: ["--pf-t--global--background--color--secondary--default", "#f2f2f2"],
  line: ["--pf-t--global--border--color--default", "#c7c7c7"],
  healthy: ["--pf-t--global--color--status--success--default", "#3d7317"],
  degraded: ["--pf-t--global--color--status--warning--default", "#dca614"],
  failure: ["--pf-t--global--color--status--danger--default", "#b1380b"],
  idle: ["--pf-t--global--border--color--default", "#a3a3a3"],
  accent: ["--pf-t--global--color--brand--default", "#0066cc"],
  font: ["--pf-t--global--font--family--body", "sans-serif"],
};

/** The theme's colours as they are now. */
export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const read = ([token, fallback]: [string, string]) =>
    style.getPropertyValue(token).trim() || fallback;
  return Object.fromEntries(
    Object.entries(TOKENS).map(([name, token]) => [name, read(token)]),
  ) as unknown as Palette;
}

/** `grow`: how much larger letters are than their share of the zoom, so that they stay legible. */
export function stylesheet(colors: Palette, grow = 1): StylesheetJson {
  const letters = (size: number) => Math.round(size * grow);
  const status = (name: string, color: string, shape: string): StylesheetJson => [
    { selector: `node[health = "${name}"][kind != "box"]`, style: { "border-color": color } },
    {
      selector: `edge[health = "${name}"]`,
      style: { "line-color": color, "target-arrow-color": color },
    },
    { selector: `node[health = "${name}"][kind != "box"]`, style: { "border-style": shape as never } },
  ];
  return [
    {
      selector: "node",
      style: {
        width: 42,
        height: 42,
        shape: "ellipse",
        "background-color": colors.surface,
        "border-width": 3,
        "border-color": colors.idle,
        label: "data(label)",
        color: colors.text,
        "font-family": colors.font,
        "font-size": letters(15),
        "text-valign": "bottom",
        "text-margin-y": 5,
        "text-wrap": "wrap",
        "text-background-color": colors.surface,
        "text-background-opacity": 0.85,
        "text-background-padding": "2px",
        "text-background-shape": "roundrectangle",
      },
    },
    { selector: 'node[kind = "service"]', style: { shape: "triangle", width: 44, height: 40 } },
    { selector: 'node[kind = "workload"]', style: { shape: "round-rectangle" } },
    { selector: 'node[kind = "gateway"]', style: { shape: "diamond", width: 50, height: 50 } },
    {
      selector: 'node[kind = "unknown"]',
      style: { shape: "octagon", "border-style": "dashed", width: 28, height: 28 },
    },
    { selector: "node[?outside]", style: { opacity: 0.6 } },
    {
      selector: 'node[kind = "box"]',
      style: {
        shape: "round-rectangle",
        "background-color": colors.raised,
        "background-opacity": 0.55,
        "border-width": 1,
        "border-color": colors.line,
        "border-style": "solid",
        "text-valign": "top",
        "text-margin-y": -4,
        "font-weight": 600,
        "font-size": letters(15),
        padding: "16px",
      },
    },
    {
      selector: 'node[box = "namespace"]',
      style: { "background-opacity": 0.25, "border-style": "dashed", "font-size": letters(16), padding: "26px" },
    },
    {
      selector: "edge",
      style: {
        width: 2,
        "curve-style": "bezier",
        "line-color": colors.idle,
        "target-arrow-color": colors.idle,
        "target-arrow-shape": "triangle",
        "arrow-scale": 0.9,
        label: "data(label)",
        color: colors.text,
        "font-family": colors.font,
        "font-size": letters(13),
        "text-wrap": "wrap",
        "text-background-color": colors.surface,
        "text-background-opacity": 0.9,
        "text-background-padding": "2px",
      },
    },
    { selector: 'edge[protocol = "tcp"]', style: { "line-style": "dotted" } },
    ...status("healthy", colors.healthy, "solid"),
    ...status("degraded", colors.degraded, "double"),
    ...status("failure", colors.failure, "double"),
    { selector: 'node[kind = "box"][health = "failure"]', style: { "border-color": colors.failure } },
    { selector: 'node[kind = "box"][health = "degraded"]', style: { "border-color": colors.degraded } },
    { selector: "edge[rate = 0]", style: { "line-style": "dashed" } },
    { selector: 'edge[health = "failure"]', style: { width: 3.5 } },
    { selector: ".faded", style: { opacity: 0.18 } },
    {
      selector: ":selected",
      style: { "overlay-color": colors.accent, "overlay-opacity": 0.14, "overlay-padding": 6 },
    },
  ];
}
