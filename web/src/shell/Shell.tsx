import {
  Button,
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
import MoonIcon from "@patternfly/react-icons/dist/esm/icons/moon-icon";
import SunIcon from "@patternfly/react-icons/dist/esm/icons/sun-icon";
import { Link, Outlet } from "@tanstack/react-router";
import { useState } from "react";
import { parseView } from "../pages/graph/view";
import { setTheme, useTheme } from "../state/theme";
import { MeshState } from "./MeshState";

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
