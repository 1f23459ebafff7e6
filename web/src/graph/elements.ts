import type { ElementDefinition } from "cytoscape";
import type { Graph, GraphNode } from "../api/types";
import { edgeText, type EdgeLabel } from "./format";

/** The most telling first. */
const BADGES: [GraphNode["badges"][number], string][] = [
  ["missing-sidecar", "no sidecar"],
  ["fault-injection", "fault"],
  ["mirroring", "mirror"],
  ["circuit-breaker", "breaker"],
  ["traffic-shifting", "split"],
  ["virtual-service", "routed"],
];

/** What is written under a node: its name, and the one badge that says most. */
export function nodeText(node: GraphNode): string {
  const said = BADGES.find(([badge]) => node.badges.includes(badge));
  return said === undefined ? node.label : `${node.label}\n${said[1]}`;
}

/** Graph to Cytoscape elements; ids are the API's, so that updates find what is there. */
export function elements(graph: Graph, label: EdgeLabel): ElementDefinition[] {
  const boxes = graph.boxes.map((box) => ({
    group: "nodes" as const,
    data: {
      id: box.id,
      parent: box.parent ?? undefined,
      kind: "box",
      box: box.kind,
      label: box.label,
      health: box.health.status,
    },
  }));
  const nodes = graph.nodes.map((node) => ({
    group: "nodes" as const,
    data: {
      id: node.id,
      parent: node.parent ?? undefined,
      kind: node.kind,
      label: nodeText(node),
      health: node.health.status,
      root: node.badges.includes("root"),
      outside: node.badges.includes("outside"),
    },
  }));
  const edges = graph.edges.map((edge) => ({
    group: "edges" as const,
    data: {
      id: edge.id,
      source: edge.source,
      target: edge.target,
      label: edgeText(edge, label),
      health: edge.health.status,
      protocol: edge.protocol,
      rate: edge.rate,
      errors: edge.errorShare,
      mtls: edge.mtlsShare,
    },
  }));
  return [...boxes, ...nodes, ...edges];
}

/** What layout depends on: which things there are and how they hang together, not how much flows. */
export function structure(graph: Graph): string {
  const parts = [
    ...graph.boxes.map((box) => `${box.id}<${box.parent ?? ""}`),
    ...graph.nodes.map((node) => `${node.id}<${node.parent ?? ""}`),
    ...graph.edges.map((edge) => edge.id),
  ];
  return parts.sort().join("|");
}
