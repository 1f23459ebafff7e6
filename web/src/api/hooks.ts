import { keepPreviousData, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { fetchGraph, fetchMesh, fetchProblems, type GraphQuery } from "./client";

/** How often to ask when no events arrive. */
const FALLBACK_MS = 5_000;

/** Follows the server's events: newer telemetry refreshes what is shown. True while connected. */
export function useLiveUpdates(): boolean {
  const client = useQueryClient();
  const [live, setLive] = useState(false);
  useEffect(() => {
    const events = new EventSource("/api/events");
    events.onopen = () => setLive(true);
    events.onerror = () => setLive(false);
    events.addEventListener("graph", () => {
      void client.invalidateQueries({ queryKey: ["graph"] });
    });
    return () => events.close();
  }, [client]);
  return live;
}

export function useGraph(query: GraphQuery, live: boolean) {
  return useQuery({
    queryKey: ["graph", query],
    queryFn: ({ signal }) => fetchGraph(query, signal),
    placeholderData: keepPreviousData,
    refetchInterval: live ? false : FALLBACK_MS,
  });
}

export function useMesh() {
  return useQuery({
    queryKey: ["mesh"],
    queryFn: ({ signal }) => fetchMesh(signal),
    refetchInterval: FALLBACK_MS,
  });
}

/** What is wrong with the mesh's objects, for as long as somebody looks. */
export function useProblems() {
  return useQuery({
    queryKey: ["problems"],
    queryFn: ({ signal }) => fetchProblems(signal),
    refetchInterval: FALLBACK_MS,
  });
}
