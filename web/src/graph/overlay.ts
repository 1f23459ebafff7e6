import type { Core, EdgeSingular, Position } from "cytoscape";
import type { Palette } from "./style";

/** Traffic passes beneath the label in the middle of an edge. */
const UNDER_LABEL = 0.13;

/** Draws what Cytoscape has no shape for: locks on edges in mutual TLS, and moving traffic. */
export class Overlay {
  private frame = 0;
  private readonly context: CanvasRenderingContext2D;
  animated = false;

  constructor(
    private readonly cy: Core,
    private readonly canvas: HTMLCanvasElement,
    private colors: Palette,
  ) {
    const context = canvas.getContext("2d");
    if (context === null) throw new Error("this browser has no canvas");
    this.context = context;
    cy.on("render", this.draw);
  }

  recolor(colors: Palette): void {
    this.colors = colors;
    this.draw();
  }

  setAnimated(animated: boolean): void {
    if (animated === this.animated) return;
    this.animated = animated;
    cancelAnimationFrame(this.frame);
    if (animated) this.tick();
    else this.draw();
  }

  close(): void {
    cancelAnimationFrame(this.frame);
    this.cy.off("render", this.draw);
  }

  private readonly tick = (): void => {
    this.draw();
    if (this.animated) this.frame = requestAnimationFrame(this.tick);
  };

  private readonly draw = (): void => {
    const { context, canvas, cy } = this;
    const ratio = window.devicePixelRatio;
    const width = cy.width();
    const height = cy.height();
    if (canvas.width !== width * ratio || canvas.height !== height * ratio) {
      canvas.width = width * ratio;
      canvas.height = height * ratio;
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const pan = cy.pan();
    const zoom = cy.zoom();
    context.translate(pan.x, pan.y);
    context.scale(zoom, zoom);
    cy.edges().forEach((edge) => {
      if (edge.hasClass("faded")) return;
      if ((edge.data("mtls") as number) > 0.5) this.lock(along(edge, 0.2));
      if (this.animated) this.dots(edge);
    });
  };

  /** A padlock of 9 by 11 units. */
  private lock(at: Position): void {
    const { context, colors } = this;
    context.save();
    context.translate(at.x - 4.5, at.y - 5.5);
    context.fillStyle = colors.surface;
    context.beginPath();
    context.arc(4.5, 5.5, 8, 0, Math.PI * 2);
    context.fill();
    context.strokeStyle = colors.subtle;
    context.fillStyle = colors.subtle;
    context.lineWidth = 1.4;
    context.beginPath();
    context.arc(4.5, 3.6, 2.4, Math.PI, 0);
    context.lineTo(6.9, 5);
    context.moveTo(2.1, 3.6);
    context.lineTo(2.1, 5);
    context.stroke();
    context.beginPath();
    context.roundRect(0.6, 4.8, 7.8, 5.6, 1.2);
    context.fill();
    context.restore();
  }

  private dots(edge: EdgeSingular): void {
    const rate = edge.data("rate") as number;
    if (rate <= 0) return;
    const { context, colors } = this;
    const period = Math.min(4000, Math.max(350, 2400 / Math.sqrt(rate)));
    const phase = (performance.now() % period) / period;
    const failing = (edge.data("errors") as number) > 0.01;
    context.fillStyle = failing ? colors.failure : colors.accent;
    for (const step of [phase, (phase + 0.5) % 1]) {
      if (Math.abs(step - 0.5) < UNDER_LABEL) continue;
      const at = along(edge, step);
      context.beginPath();
      if (failing) context.rect(at.x - 2.5, at.y - 2.5, 5, 5);
      else context.arc(at.x, at.y, 2.4, 0, Math.PI * 2);
      context.fill();
    }
  }
}

/** A point on an edge, `share` of the way from its start. */
function along(edge: EdgeSingular, share: number): Position {
  const from = edge.sourceEndpoint();
  const to = edge.targetEndpoint();
  const bend = edge.controlPoints()?.[0];
  const rest = 1 - share;
  if (bend === undefined) {
    return { x: from.x * rest + to.x * share, y: from.y * rest + to.y * share };
  }
  return {
    x: rest * rest * from.x + 2 * rest * share * bend.x + share * share * to.x,
    y: rest * rest * from.y + 2 * rest * share * bend.y + share * share * to.y,
  };
}
