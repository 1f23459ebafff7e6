import { Button, Tooltip } from "@patternfly/react-core";
import ExpandArrowsAltIcon from "@patternfly/react-icons/dist/esm/icons/expand-arrows-alt-icon";
import PauseIcon from "@patternfly/react-icons/dist/esm/icons/pause-icon";
import PlayIcon from "@patternfly/react-icons/dist/esm/icons/play-icon";
import SearchMinusIcon from "@patternfly/react-icons/dist/esm/icons/search-minus-icon";
import SearchPlusIcon from "@patternfly/react-icons/dist/esm/icons/search-plus-icon";
import { useEffect, useRef, useState, type ReactNode } from "react";
import type { Graph } from "../../api/types";
import { Stage } from "../../graph/stage";
import { useTheme } from "../../state/theme";
import { Legend } from "./Legend";
import type { View } from "./view";

interface Props {
  graph: Graph;
  view: View;
  onSelect: (id: string) => void;
  onAnimate: (on: boolean) => void;
}

export default function GraphStage({ graph, view, onSelect, onAnimate }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const stage = useRef<Stage | null>(null);
  const [legend, setLegend] = useState(false);
  const theme = useTheme();

  useEffect(() => {
    if (place.current === null || canvas.current === null) return;
    const made = new Stage(place.current, canvas.current, onSelect);
    stage.current = made;
    return () => {
      made.close();
      stage.current = null;
    };
  }, [onSelect]);

  useEffect(() => stage.current?.recolor(), [theme]);
  useEffect(() => void stage.current?.show(graph, view.label), [graph, view.label]);
  useEffect(() => stage.current?.select(view.selected), [view.selected, graph]);
  useEffect(() => stage.current?.find(view.find), [view.find, graph]);
  useEffect(() => stage.current?.animate(view.animation), [view.animation]);

  return (
    <div className="graph-stage">
      <div
        ref={place}
        className="graph-canvas"
        role="img"
        aria-label={`Traffic graph: ${graph.nodes.length} nodes, ${graph.edges.length} edges. The table shows the same.`}
      />
      <canvas ref={canvas} className="graph-overlay" aria-hidden="true" />
      {legend && <Legend />}
      <div className="graph-tools">
        <Tool name="Zoom in" icon={<SearchPlusIcon />} onClick={() => stage.current?.zoom(1.25)} />
        <Tool name="Zoom out" icon={<SearchMinusIcon />} onClick={() => stage.current?.zoom(0.8)} />
        <Tool name="Fit" icon={<ExpandArrowsAltIcon />} onClick={() => stage.current?.fit()} />
        <Button
          variant="control"
          size="sm"
          aria-expanded={legend}
          onClick={() => setLegend(!legend)}
        >
          Legend
        </Button>
        <Button
          variant="control"
          size="sm"
          aria-pressed={view.animation}
          icon={view.animation ? <PauseIcon /> : <PlayIcon />}
          onClick={() => onAnimate(!view.animation)}
        >
          Animation
        </Button>
      </div>
    </div>
  );
}

function Tool({ name, icon, onClick }: { name: string; icon: ReactNode; onClick: () => void }) {
  return (
    <Tooltip content={name}>
      <Button variant="control" size="sm" aria-label={name} icon={icon} onClick={onClick} />
    </Tooltip>
  );
}
