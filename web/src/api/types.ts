// Made by `python -m meltemi.console.typescript`; do not edit.

export type HealthStatus = "healthy" | "degraded" | "failure" | "not-ready" | "unknown";

export type NodeKind = "app" | "workload" | "service" | "service-entry" | "gateway" | "unknown";

export type Severity = "error" | "warning" | "info";

export type GraphType = "versionedApp" | "app" | "workload" | "service";

export type Protocol = "http" | "grpc" | "tcp";

export type Badge = "missing-sidecar" | "virtual-service" | "circuit-breaker" | "fault-injection" | "mirroring" | "traffic-shifting" | "gateway" | "root" | "outside";

export interface Health {
  status: HealthStatus;
  reason: string;
}

export interface Rates {
  http: number;
  grpc: number;
  tcp: number;
  errors: number;
}

export interface GraphBox {
  id: string;
  kind: "namespace" | "app";
  label: string;
  namespace: string;
  parent: string | null;
  health: Health;
}

export interface GraphNode {
  id: string;
  kind: NodeKind;
  label: string;
  namespace: string;
  app: string;
  version: string;
  workload: string;
  service: string;
  parent: string | null;
  health: Health;
  badges: Badge[];
  inbound: Rates;
  outbound: Rates;
}

export interface ResponseTime {
  average: number | null;
  p50: number | null;
  p95: number | null;
  p99: number | null;
}

export interface CodeRate {
  code: string;
  flags: string;
  rate: number;
}

export interface GraphEdge {
  id: string;
  source: string;
  target: string;
  protocol: Protocol;
  rate: number;
  errorShare: number;
  share: number;
  responseTime: ResponseTime;
  throughput: number;
  mtlsShare: number;
  sourcePrincipal: string;
  destinationPrincipal: string;
  codes: CodeRate[];
  health: Health;
}

export interface Graph {
  at: string;
  duration: number;
  graphType: GraphType;
  namespaces: string[];
  boxes: GraphBox[];
  nodes: GraphNode[];
  edges: GraphEdge[];
}

export interface NamespaceSummary {
  name: string;
  injection: boolean;
  workloads: number;
}

export interface Mesh {
  version: string;
  namespaces: NamespaceSummary[];
  proxies: number;
  proxiesSynced: number;
  problems: number;
  components: Record<string, string>;
}

export interface Problem {
  code: string;
  severity: Severity;
  kind: string;
  namespace: string;
  name: string;
  path: string;
  message: string;
}
