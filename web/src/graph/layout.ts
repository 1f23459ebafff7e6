import { Graph as Dagre, layout as run } from "@dagrejs/dagre";
import type { Graph } from "../api/types";

export interface Point {
  x: number;
  y: number;
}

export type Positions = Record<string, Point>;

const WIDTH = 78;
const HEIGHT = 70;

/** The order that applications stand in, left to right: layered, without crossing if it can be. */
export function positions(graph: Pick<Graph, "nodes" | "edges" | "boxes">): Positions {
  const dagre = new Dagre({ compound: true, multigraph: true });
  dagre.setGraph({ rankdir: "LR", nodesep: 26, ranksep: 62, edgesep: 20, marginx: 20, marginy: 20 });
  dagre.setDefaultEdgeLabel(() => ({}));
  for (const box of graph.boxes) {
    dagre.setNode(box.id, {});
  }
  for (const node of graph.nodes) {
    dagre.setNode(node.id, { width: WIDTH, height: HEIGHT });
  }
  for (const box of graph.boxes) {
    if (box.parent !== null) dagre.setParent(box.id, box.parent);
  }
  for (const node of graph.nodes) {
    if (node.parent !== null) dagre.setParent(node.id, node.parent);
  }
  for (const edge of graph.edges) {
    dagre.setEdge(edge.source, edge.target, {}, edge.protocol);
  }
  run(dagre);
  const found: Positions = {};
  for (const node of graph.nodes) {
    const place = dagre.node(node.id) as Point;
    found[node.id] = { x: Math.round(place.x), y: Math.round(place.y) };
  }
  return found;
}
