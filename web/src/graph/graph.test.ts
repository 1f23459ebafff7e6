import { describe, expect, it } from "vitest";
import type { Graph, GraphEdge, GraphNode, Health } from "../api/types";
import { elements, nodeText, structure } from "./elements";
import { bytes, edgeText, milliseconds, percent, rate } from "./format";
import { positions } from "./layout";

const healthy: Health = { status: "healthy", reason: "" };
const none = { http: 0, grpc: 0, tcp: 0, errors: 0 };

function node(id: string, parent: string | null = null): GraphNode {
  return {
    id,
    kind: "app",
    label: id,
    namespace: "default",
    app: id,
    version: "v1",
    workload: id,
    service: "",
    parent,
    health: healthy,
    badges: [],
    inbound: none,
    outbound: none,
  };
}

function edge(source: string, target: string, more: Partial<GraphEdge> = {}): GraphEdge {
  return {
    id: `${source}>${target}`,
    source,
    target,
    protocol: "http",
    rate: 4,
    errorShare: 0,
    share: 1,
    responseTime: { average: 1, p50: 1, p95: 2, p99: 3 },
    throughput: 2048,
    mtlsShare: 1,
    sourcePrincipal: "",
    destinationPrincipal: "",
    codes: [],
    health: healthy,
    ...more,
  };
}

const bookinfo: Graph = {
  at: "2026-01-01T00:00:00Z",
  duration: 60,
  graphType: "versionedApp",
  namespaces: [],
  boxes: [
    { id: "box", kind: "app", label: "reviews", namespace: "default", parent: null, health: healthy },
  ],
  nodes: [node("page"), node("r1", "box"), node("r2", "box"), node("ratings")],
  edges: [edge("page", "r1"), edge("page", "r2"), edge("r2", "ratings")],
};

describe("numbers", () => {
  it("have as many digits as tell something", () => {
    expect([rate(0.123), rate(12.34), rate(1234.5)]).toEqual(["0.12", "12.3", "1235"]);
    expect([percent(0), percent(0.034), percent(0.5), percent(1)]).toEqual(["0 %", "3.4 %", "50 %", "100 %"]);
    expect([milliseconds(null), milliseconds(3.21), milliseconds(1500)]).toEqual(["–", "3.2 ms", "1.50 s"]);
    expect([bytes(512), bytes(2048)]).toEqual(["512 B/s", "2.0 KiB/s"]);
  });
});

describe("edge labels", () => {
  it("tell errors only where there are some", () => {
    expect(edgeText(edge("a", "b"), "rate")).toBe("4.00/s");
    expect(edgeText(edge("a", "b", { errorShare: 0.25 }), "rate")).toContain("25 % errors");
  });

  it("count bytes for TCP", () => {
    expect(edgeText(edge("a", "b", { protocol: "tcp", rate: 2048 }), "rate")).toBe("2.0 KiB/s");
  });
});

describe("structure", () => {
  it("does not depend on rates, so that new numbers never move nodes", () => {
    const busier = { ...bookinfo, edges: bookinfo.edges.map((e) => ({ ...e, rate: e.rate * 9 })) };
    expect(structure(busier)).toBe(structure(bookinfo));
  });

  it("changes with a new node", () => {
    const grown = { ...bookinfo, nodes: [...bookinfo.nodes, node("new")] };
    expect(structure(grown)).not.toBe(structure(bookinfo));
  });
});

describe("elements", () => {
  it("put versions into the box of their application", () => {
    const found = elements(bookinfo, "rate").find((e) => e.data.id === "r1");
    expect(found?.data["parent"]).toBe("box");
  });

  it("write the most telling badge under the name", () => {
    const fault = { ...node("ratings"), badges: ["fault-injection" as const] };
    expect(nodeText(fault)).toBe("ratings\nfault");
  });
});

describe("layout", () => {
  it("goes from left to right, callers first, each node once", () => {
    const found = positions(bookinfo);
    expect(Object.keys(found).sort()).toEqual(["page", "r1", "r2", "ratings"]);
    expect(found["page"]?.x).toBeLessThan(found["r2"]?.x ?? 0);
    expect(found["r2"]?.x).toBeLessThan(found["ratings"]?.x ?? 0);
  });

  it("gives the same places to the same graph", () => {
    expect(positions(bookinfo)).toEqual(positions(structuredClone(bookinfo)));
  });
});
