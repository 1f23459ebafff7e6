import type { Graph } from "../api/types";
import { structure } from "./elements";
import type { Positions } from "./layout";

interface Answer {
  id: number;
  positions: Positions;
}

const MOST_KEPT = 20;

/** Computes layouts in a worker, and remembers them by structure. */
export class Layouter {
  private readonly worker = new Worker(new URL("./layout.worker.ts", import.meta.url), {
    type: "module",
  });
  private readonly kept = new Map<string, Positions>();
  private readonly waiting = new Map<number, (positions: Positions) => void>();
  private next = 0;

  constructor() {
    this.worker.onmessage = (event: MessageEvent<Answer>) => {
      this.waiting.get(event.data.id)?.(event.data.positions);
      this.waiting.delete(event.data.id);
    };
  }

  async positions(graph: Graph): Promise<Positions> {
    const key = structure(graph);
    const known = this.kept.get(key);
    if (known !== undefined) return known;
    this.next += 1;
    const id = this.next;
    const found = await new Promise<Positions>((resolve) => {
      this.waiting.set(id, resolve);
      const { nodes, edges, boxes } = graph;
      this.worker.postMessage({ id, graph: { nodes, edges, boxes } });
    });
    this.kept.set(key, found);
    const oldest = this.kept.keys().next().value;
    if (this.kept.size > MOST_KEPT && oldest !== undefined) this.kept.delete(oldest);
    return found;
  }

  close(): void {
    this.worker.terminate();
  }
}
