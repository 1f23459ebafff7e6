import type { GraphBox, GraphNode } from "../../api/types";

/** A node's full name, for lists and panels. */
export function nodeName(node: GraphNode): string {
  const place = node.namespace === "" ? "" : ` (${node.namespace})`;
  switch (node.kind) {
    case "service":
      return `${node.service || node.label} service${place}`;
    case "unknown":
      return "unknown source";
    case "gateway":
      return `${node.app || node.label}${place}`;
    default:
      return node.version !== "" && node.app !== ""
        ? `${node.app} ${node.version}${place}`
        : `${node.label}${place}`;
  }
}

export function boxName(box: GraphBox): string {
  return box.kind === "namespace" ? `Namespace ${box.label}` : `${box.label} (${box.namespace})`;
}
