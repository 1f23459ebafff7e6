import {
  Button,
  Label,
  Masthead,
  MastheadBrand,
  MastheadContent,
  MastheadMain,
  MastheadToggle,
  Nav,
  NavItem,
  NavList,
  Page,
  PageSidebar,
  PageSidebarBody,
  PageToggleButton,
  Toolbar,
  ToolbarContent,
  ToolbarItem,
  Tooltip,
} from "@patternfly/react-core";
import BarsIcon from "@patternfly/react-icons/dist/esm/icons/bars-icon";
import CheckCircleIcon from "@patternfly/react-icons/dist/esm/icons/check-circle-icon";
import ExclamationTriangleIcon from "@patternfly/react-icons/dist/esm/icons/exclamation-triangle-icon";
import MoonIcon from "@patternfly/react-icons/dist/esm/icons/moon-icon";
import SunIcon from "@patternfly/react-icons/dist/esm/icons/sun-icon";
import { Link, Outlet } from "@tanstack/react-router";
import { useState } from "react";
import { useMesh } from "../api/hooks";
import { parseView } from "../pages/graph/view";
import { setTheme, useTheme } from "../state/theme";

export function Shell() {
  const [open, setOpen] = useState(false);
  return (
    <Page
      masthead={<Top open={open} onToggle={() => setOpen(!open)} />}
      sidebar={
        <PageSidebar isSidebarOpen={open}>
          <PageSidebarBody>
            <Nav aria-label="Pages">
              <NavList>
                <NavItem isActive>
                  <Link to="/graph" search={parseView({})}>
                    Traffic graph
                  </Link>
                </NavItem>
              </NavList>
            </Nav>
          </PageSidebarBody>
        </PageSidebar>
      }
      isContentFilled
    >
      <Outlet />
    </Page>
  );
}

function Top({ open, onToggle }: { open: boolean; onToggle: () => void }) {
  const theme = useTheme();
  const other = theme === "dark" ? "light" : "dark";
  return (
    <Masthead>
      <MastheadMain>
        <MastheadToggle>
          <PageToggleButton
            variant="plain"
            aria-label="Pages"
            isSidebarOpen={open}
            onSidebarToggle={onToggle}
            icon={<BarsIcon />}
          />
        </MastheadToggle>
        <MastheadBrand>
          <span className="brand">
            <Wind />
            Meltemi
          </span>
        </MastheadBrand>
      </MastheadMain>
      <MastheadContent>
        <Toolbar isStatic>
          <ToolbarContent>
            <ToolbarItem alignSelf="center">
              <MeshState />
            </ToolbarItem>
            <ToolbarItem align={{ default: "alignEnd" }}>
              <Tooltip content={`Use the ${other} theme`}>
                <Button
                  variant="plain"
                  aria-label={`Use the ${other} theme`}
                  icon={theme === "dark" ? <SunIcon /> : <MoonIcon />}
                  onClick={() => setTheme(other)}
                />
              </Tooltip>
            </ToolbarItem>
          </ToolbarContent>
        </Toolbar>
      </MastheadContent>
    </Masthead>
  );
}

/** The mesh in one chip: how many proxies, and whether each has its configuration. */
function MeshState() {
  const { data, isError } = useMesh();
  if (isError) {
    return (
      <Label color="red" icon={<ExclamationTriangleIcon />}>
        The control plane does not answer
      </Label>
    );
  }
  if (data === undefined) return null;
  const late = data.proxies - data.proxiesSynced;
  const problems = data.problems;
  const words = [
    `${data.proxies} ${data.proxies === 1 ? "proxy" : "proxies"}`,
    late === 0 ? "all in sync" : `${late} not in sync`,
  ];
  if (problems > 0) words.push(`${problems} configuration ${problems === 1 ? "problem" : "problems"}`);
  const good = late === 0 && problems === 0;
  return (
    <Label
      color={good ? "green" : "orange"}
      icon={good ? <CheckCircleIcon /> : <ExclamationTriangleIcon />}
    >
      {words.join(", ")}
    </Label>
  );
}

function Wind() {
  return (
    <svg width="26" height="26" viewBox="0 0 32 32" aria-hidden="true">
      <path
        d="M4 11h15a5 5 0 1 0-5-5M4 17h20a5 5 0 1 1-5 5M4 23h9"
        fill="none"
        stroke="var(--pf-t--global--color--brand--default)"
        strokeWidth="3"
        strokeLinecap="round"
      />
    </svg>
  );
}
