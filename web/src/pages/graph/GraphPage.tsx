import {
  Bullseye,
  Button,
  EmptyState,
  EmptyStateActions,
  EmptyStateBody,
  EmptyStateFooter,
  Spinner,
} from "@patternfly/react-core";
import CubesIcon from "@patternfly/react-icons/dist/esm/icons/cubes-icon";
import ExclamationCircleIcon from "@patternfly/react-icons/dist/esm/icons/exclamation-circle-icon";
import { getRouteApi } from "@tanstack/react-router";
import { lazy, Suspense, useCallback } from "react";
import { useGraph, useLiveUpdates } from "../../api/hooks";
import type { Graph } from "../../api/types";
import { GraphTable } from "./GraphTable";
import { SidePanel } from "./SidePanel";
import { GraphToolbar } from "./GraphToolbar";
import type { View } from "./view";

/** The canvas library comes after the page is there. */
const GraphStage = lazy(() => import("./GraphStage"));

const route = getRouteApi("/graph");

export function GraphPage() {
  const view = route.useSearch();
  const navigate = route.useNavigate();
  const live = useLiveUpdates();
  const query = { namespaces: view.namespaces, duration: view.duration, type: view.type };
  const { data, error, isPending, refetch } = useGraph(query, live);
  const change = useCallback(
    (part: Partial<View>) => {
      void navigate({ search: (before) => ({ ...before, ...part }), replace: true });
    },
    [navigate],
  );
  return (
    <div className="graph-page">
      <h1 className="pf-v6-screen-reader">Traffic graph</h1>
      <GraphToolbar view={view} onChange={change} at={data?.at} live={live && error === null} />
      <div className="graph-body">
        {isPending ? (
          <Loading />
        ) : data === undefined ? (
          <Failed reason={error?.message ?? "no answer"} onRetry={() => void refetch()} />
        ) : (
          <Shown graph={data} view={view} onChange={change} />
        )}
      </div>
    </div>
  );
}

interface ShownProps {
  graph: Graph;
  view: View;
  onChange: (part: Partial<View>) => void;
}

function Shown({ graph, view, onChange }: ShownProps) {
  const select = useCallback((selected: string) => onChange({ selected }), [onChange]);
  const animate = useCallback((animation: boolean) => onChange({ animation }), [onChange]);
  if (graph.nodes.length === 0) return <Quiet view={view} onChange={onChange} />;
  return (
    <>
      {view.show === "table" ? (
        <GraphTable graph={graph} find={view.find} selected={view.selected} onSelect={select} />
      ) : (
        <Suspense fallback={<Loading />}>
          <GraphStage graph={graph} view={view} onSelect={select} onAnimate={animate} />
        </Suspense>
      )}
      <SidePanel graph={graph} selected={view.selected} onSelect={select} />
    </>
  );
}

function Loading() {
  return (
    <Bullseye>
      <Spinner aria-label="Loading the traffic graph" />
    </Bullseye>
  );
}

function Failed({ reason, onRetry }: { reason: string; onRetry: () => void }) {
  return (
    <Bullseye>
      <EmptyState
        titleText="The graph cannot be shown"
        headingLevel="h2"
        status="danger"
        icon={ExclamationCircleIcon}
      >
        <EmptyStateBody>{reason}</EmptyStateBody>
        <EmptyStateFooter>
          <EmptyStateActions>
            <Button onClick={onRetry}>Try again</Button>
          </EmptyStateActions>
        </EmptyStateFooter>
      </EmptyState>
    </Bullseye>
  );
}

function Quiet({ view, onChange }: { view: View; onChange: (part: Partial<View>) => void }) {
  const narrowed = view.namespaces.length > 0;
  return (
    <Bullseye>
      <EmptyState titleText="No traffic" headingLevel="h2" icon={CubesIcon}>
        <EmptyStateBody>
          No proxy saw a request{narrowed ? ` in ${view.namespaces.join(", ")}` : ""} in the chosen
          time. Workloads appear here as soon as they are called.
        </EmptyStateBody>
        {narrowed && (
          <EmptyStateFooter>
            <EmptyStateActions>
              <Button variant="secondary" onClick={() => onChange({ namespaces: [] })}>
                Show all namespaces
              </Button>
            </EmptyStateActions>
          </EmptyStateFooter>
        )}
      </EmptyState>
    </Bullseye>
  );
}
