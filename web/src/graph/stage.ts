import cytoscape, { type Core } from "cytoscape";
import type { Graph } from "../api/types";
import { elements, structure } from "./elements";
import type { EdgeLabel } from "./format";
import { Layouter } from "./layouter";
import { Overlay } from "./overlay";
import { reconcile } from "./reconcile";
import { palette, stylesheet } from "./style";

const PADDING = 48;
const CLOSEST = 1.35;
/** Below this zoom letters shrink no further, up to a fifth larger. */
const LEGIBLE = 0.9;
const MOST_GROWTH = 1.2;

/** The canvas and what is on it. New numbers change labels and colours; nothing moves. */
export class Stage {
  private readonly cy: Core;
  private readonly overlay: Overlay;
  private readonly layouter = new Layouter();
  private structure = "";
  private wanted = "";
  private turn = 0;
  private grow = 1;

  constructor(place: HTMLElement, canvas: HTMLCanvasElement, onSelect: (id: string) => void) {
    const colors = palette();
    this.cy = cytoscape({
      container: place,
      style: stylesheet(colors),
      minZoom: 0.1,
      maxZoom: 4,
      boxSelectionEnabled: false,
      selectionType: "single",
      hideEdgesOnViewport: false,
      textureOnViewport: false,
    });
    this.overlay = new Overlay(this.cy, canvas, colors);
    this.cy.on("tap", (event) => {
      onSelect(event.target === this.cy ? "" : (event.target as { id(): string }).id());
    });
    this.cy.on("zoom", this.keepLegible);
  }

  private readonly keepLegible = (): void => {
    const wanted = Math.min(MOST_GROWTH, Math.max(1, LEGIBLE / this.cy.zoom()));
    const grow = Math.round(wanted * 10) / 10;
    if (grow === this.grow) return;
    this.grow = grow;
    this.cy.style(stylesheet(palette(), grow));
  };

  /** Show a graph; places are computed only when its structure is new. */
  async show(graph: Graph, label: EdgeLabel): Promise<void> {
    this.turn += 1;
    const turn = this.turn;
    const shape = structure(graph);
    if (shape === this.structure) {
      reconcile(this.cy, elements(graph, label));
      this.select(this.wanted);
      return;
    }
    const places = await this.layouter.positions(graph);
    if (turn !== this.turn || this.cy.destroyed()) return;
    const first = this.structure === "";
    this.structure = shape;
    reconcile(this.cy, elements(graph, label));
    this.cy.batch(() => {
      for (const [id, place] of Object.entries(places)) {
        this.cy.getElementById(id).position(place);
      }
    });
    this.select(this.wanted);
    if (first || this.cy.extent().w === 0) this.fit();
    else this.cy.animate({ fit: { eles: this.cy.elements(), padding: PADDING }, duration: 250 });
  }

  select(id: string): void {
    this.wanted = id;
    this.cy.elements().unselect();
    if (id !== "") this.cy.getElementById(id).select();
  }

  /** Fade what does not carry the text in its name. */
  find(text: string): void {
    const wanted = text.trim().toLowerCase();
    this.cy.batch(() => {
      this.cy.elements().removeClass("faded");
      if (wanted === "") return;
      const hits = this.cy.nodes().filter((node) => node.id().toLowerCase().includes(wanted));
      const near = hits.union(hits.descendants()).union(hits.ancestors());
      const kept = near.union(near.connectedEdges());
      this.cy.elements().difference(kept).addClass("faded");
    });
  }

  animate(on: boolean): void {
    this.overlay.setAnimated(on && !matchMedia("(prefers-reduced-motion: reduce)").matches);
  }

  recolor(): void {
    const colors = palette();
    this.cy.style(stylesheet(colors, this.grow));
    this.overlay.recolor(colors);
  }

  zoom(factor: number): void {
    const middle = { x: this.cy.width() / 2, y: this.cy.height() / 2 };
    this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition: middle });
  }

  fit(): void {
    this.cy.resize();
    this.cy.fit(undefined, PADDING);
    if (this.cy.zoom() > CLOSEST) {
      this.cy.zoom(CLOSEST);
      this.cy.center();
    }
  }

  close(): void {
    this.overlay.close();
    this.layouter.close();
    this.cy.destroy();
  }
}
