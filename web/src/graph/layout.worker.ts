import type { Graph } from "../api/types";
import { positions } from "./layout";

interface Task {
  id: number;
  graph: Pick<Graph, "nodes" | "edges" | "boxes">;
}

self.onmessage = (event: MessageEvent<Task>) => {
  self.postMessage({ id: event.data.id, positions: positions(event.data.graph) });
};
