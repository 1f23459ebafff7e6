import type { GraphType } from "../../api/types";
import type { EdgeLabel } from "../../graph/format";

/** Everything a person set on this page; it is the URL's query. */
export interface View {
  namespaces: string[];
  /** Seconds. */
  duration: number;
  type: GraphType;
  label: EdgeLabel;
  show: "graph" | "table";
  selected: string;
  animation: boolean;
  locks: boolean;
  find: string;
}

export const DURATIONS = [10, 60, 300, 600, 900];
export const TYPES: Record<GraphType, string> = {
  versionedApp: "Versioned app graph",
  app: "App graph",
  workload: "Workload graph",
  service: "Service graph",
};
export const LABELS: Record<EdgeLabel, string> = {
  rate: "Traffic rate",
  errors: "Error share",
  time: "Response time (95th percentile)",
  throughput: "Throughput",
  share: "Traffic distribution",
  none: "No labels",
};

export const DEFAULTS: View = {
  namespaces: [],
  duration: 60,
  type: "versionedApp",
  label: "rate",
  show: "graph",
  selected: "",
  animation: true,
  locks: true,
  find: "",
};

/** A view from a URL; what cannot be understood is the default. */
export function parseView(search: Record<string, unknown>): View {
  const duration = Number(search["duration"]);
  const spaces = search["namespaces"];
  return {
    namespaces: Array.isArray(spaces) ? spaces.filter((s) => typeof s === "string") : [],
    duration: DURATIONS.includes(duration) ? duration : DEFAULTS.duration,
    type: oneOf(search["type"], TYPES, DEFAULTS.type),
    label: oneOf(search["label"], LABELS, DEFAULTS.label),
    show: search["show"] === "table" ? "table" : "graph",
    selected: typeof search["selected"] === "string" ? search["selected"] : "",
    animation: search["animation"] !== false,
    locks: search["locks"] !== false,
    find: typeof search["find"] === "string" ? search["find"] : "",
  };
}

function oneOf<K extends string>(value: unknown, known: Record<K, string>, otherwise: K): K {
  return typeof value === "string" && value in known ? (value as K) : otherwise;
}
