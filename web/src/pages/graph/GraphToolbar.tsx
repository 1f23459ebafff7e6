import {
  Label,
  SearchInput,
  ToggleGroup,
  ToggleGroupItem,
  Toolbar,
  ToolbarContent,
  ToolbarGroup,
  ToolbarItem,
} from "@patternfly/react-core";
import ListIcon from "@patternfly/react-icons/dist/esm/icons/list-icon";
import TopologyIcon from "@patternfly/react-icons/dist/esm/icons/topology-icon";
import { useEffect, useState } from "react";
import { useMesh } from "../../api/hooks";
import type { GraphType } from "../../api/types";
import type { EdgeLabel } from "../../graph/format";
import { Choice, Choices } from "./Choice";
import { DURATIONS, LABELS, TYPES, type View } from "./view";

interface Props {
  view: View;
  onChange: (part: Partial<View>) => void;
  at: string | undefined;
  live: boolean;
}

export function GraphToolbar({ view, onChange, at, live }: Props) {
  const { data: mesh } = useMesh();
  const spaces = (mesh?.namespaces ?? []).filter((n) => n.workloads > 0).map((n) => n.name);
  const durations = Object.fromEntries(DURATIONS.map((s) => [String(s), `Last ${span(s)}`]));
  return (
    <Toolbar aria-label="What the graph shows">
      <ToolbarContent>
        <ToolbarGroup variant="filter-group">
          <ToolbarItem>
            <Choices
              name="Namespaces"
              all="All namespaces"
              options={spaces}
              chosen={view.namespaces}
              onChange={(namespaces) => onChange({ namespaces, selected: "" })}
            />
          </ToolbarItem>
          <ToolbarItem>
            <Choice
              name="Graph type"
              options={TYPES}
              chosen={view.type}
              onChange={(type) => onChange({ type: type as GraphType, selected: "" })}
            />
          </ToolbarItem>
          <ToolbarItem>
            <Choice
              name="Edge labels"
              options={LABELS}
              chosen={view.label}
              onChange={(label) => onChange({ label: label as EdgeLabel })}
            />
          </ToolbarItem>
          <ToolbarItem>
            <Choice
              name="Time range"
              options={durations}
              chosen={String(view.duration)}
              onChange={(seconds) => onChange({ duration: Number(seconds) })}
            />
          </ToolbarItem>
        </ToolbarGroup>
        <ToolbarItem>
          <SearchInput
            aria-label="Find by name"
            placeholder="Find"
            value={view.find}
            onChange={(_event, find) => onChange({ find })}
            onClear={() => onChange({ find: "" })}
          />
        </ToolbarItem>
        <ToolbarGroup align={{ default: "alignEnd" }}>
          <ToolbarItem alignSelf="center">
            <Age at={at} live={live} />
          </ToolbarItem>
          <ToolbarItem>
            <ToggleGroup aria-label="Form">
              <ToggleGroupItem
                icon={<TopologyIcon />}
                aria-label="Graph"
                isSelected={view.show === "graph"}
                onChange={() => onChange({ show: "graph" })}
              />
              <ToggleGroupItem
                icon={<ListIcon />}
                aria-label="Table"
                isSelected={view.show === "table"}
                onChange={() => onChange({ show: "table" })}
              />
            </ToggleGroup>
          </ToolbarItem>
        </ToolbarGroup>
      </ToolbarContent>
    </Toolbar>
  );
}

function span(seconds: number): string {
  if (seconds < 60) return `${seconds} s`;
  return seconds === 60 ? "minute" : `${seconds / 60} minutes`;
}

/** How old the shown numbers are; nobody should act on yesterday's traffic. */
function Age({ at, live }: { at: string | undefined; live: boolean }) {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, []);
  if (at === undefined) return null;
  const seconds = Math.max(0, Math.round((now - Date.parse(at)) / 1_000));
  const old = seconds > 15;
  return (
    <Label className="age" color={old ? "orange" : live ? "green" : "grey"} isCompact>
      {live && !old ? `Live, ${seconds} s ago` : `${seconds} s old`}
    </Label>
  );
}
