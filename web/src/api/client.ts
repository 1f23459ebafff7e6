import type { Graph, GraphType, Mesh, Problem } from "./types";

/** An answer that was not what was asked for; `message` is what the server said. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  const reply = await fetch(path, { signal, headers: { Accept: "application/json" } });
  if (!reply.ok) {
    const body = (await reply.json().catch(() => ({}))) as { message?: string };
    throw new ApiError(body.message ?? `the control plane answered ${reply.status}`, reply.status);
  }
  return (await reply.json()) as T;
}

export interface GraphQuery {
  namespaces: string[];
  /** Seconds that rates average over. */
  duration: number;
  type: GraphType;
}

export function fetchGraph(query: GraphQuery, signal?: AbortSignal): Promise<Graph> {
  const search = new URLSearchParams({ duration: String(query.duration), type: query.type });
  if (query.namespaces.length > 0) {
    search.set("namespaces", query.namespaces.join(","));
  }
  return get<Graph>(`/api/graph?${search.toString()}`, signal);
}

export function fetchMesh(signal?: AbortSignal): Promise<Mesh> {
  return get<Mesh>("/api/mesh", signal);
}

export function fetchProblems(signal?: AbortSignal): Promise<Problem[]> {
  return get<Problem[]>("/api/problems", signal);
}
