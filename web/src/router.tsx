import { createRootRoute, createRoute, createRouter, redirect } from "@tanstack/react-router";
import { parseView } from "./pages/graph/view";
import { GraphPage } from "./pages/graph/GraphPage";
import { Shell } from "./shell/Shell";

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound });

const home = createRoute({
  getParentRoute: () => root,
  path: "/",
  beforeLoad: () => {
    throw redirect({ to: "/graph", search: parseView({}) });
  },
});

export const graphRoute = createRoute({
  getParentRoute: () => root,
  path: "/graph",
  validateSearch: parseView,
  component: GraphPage,
});

export const router = createRouter({ routeTree: root.addChildren([home, graphRoute]) });

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}

function NotFound() {
  return <p style={{ padding: "2rem" }}>There is no such page. The traffic graph is at /graph.</p>;
}
