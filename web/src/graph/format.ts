import type { GraphEdge, HealthStatus } from "../api/types";

export type EdgeLabel = "rate" | "errors" | "time" | "throughput" | "share" | "none";

/** A rate with as many digits as tell something. */
export function rate(value: number): string {
  if (value >= 100) return value.toFixed(0);
  if (value >= 10) return value.toFixed(1);
  return value.toFixed(2);
}

export function percent(share: number): string {
  const value = share * 100;
  if (value === 0 || value === 100) return `${value} %`;
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} %`;
}

export function milliseconds(value: number | null): string {
  if (value === null) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(1)} ms`;
}

export function bytes(value: number): string {
  const units = ["B/s", "KiB/s", "MiB/s", "GiB/s"];
  let left = value;
  let unit = 0;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${left >= 100 || unit === 0 ? left.toFixed(0) : left.toFixed(1)} ${units[unit] ?? ""}`;
}

/** How much goes over an edge, in its protocol's unit. */
export function volume(edge: Pick<GraphEdge, "protocol" | "rate">): string {
  return edge.protocol === "tcp" ? bytes(edge.rate) : `${rate(edge.rate)}/s`;
}

export function edgeText(edge: GraphEdge, label: EdgeLabel): string {
  switch (label) {
    case "rate":
      return edge.errorShare > 0
        ? `${volume(edge)}\n${percent(edge.errorShare)} errors`
        : volume(edge);
    case "errors":
      return edge.protocol === "tcp" ? "" : percent(edge.errorShare);
    case "time":
      return edge.responseTime.p95 === null ? "" : milliseconds(edge.responseTime.p95);
    case "throughput":
      return bytes(edge.protocol === "tcp" ? edge.rate : edge.throughput);
    case "share":
      return percent(edge.share);
    case "none":
      return "";
  }
}

const WORDS: Record<HealthStatus, string> = {
  healthy: "Healthy",
  degraded: "Degraded",
  failure: "Failing",
  "not-ready": "Not ready",
  unknown: "No traffic",
};

export function healthWord(status: HealthStatus): string {
  return WORDS[status];
}
