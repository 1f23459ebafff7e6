import {
  Button,
  Content,
  DescriptionList,
  DescriptionListDescription,
  DescriptionListGroup,
  DescriptionListTerm,
  Flex,
  FlexItem,
  LabelGroup,
  Label,
  Title,
} from "@patternfly/react-core";
import TimesIcon from "@patternfly/react-icons/dist/esm/icons/times-icon";
import type { ReactNode } from "react";
import type { Graph, GraphEdge, GraphNode, Health } from "../../api/types";
import { milliseconds, percent, rate, volume, bytes } from "../../graph/format";
import { CodeTable } from "./CodeTable";
import { HealthLabel } from "./HealthLabel";
import { boxName, nodeName } from "./names";

interface Props {
  graph: Graph;
  selected: string;
  onSelect: (id: string) => void;
}

/** What is known of the selected thing, or of the whole graph. */
export function SidePanel({ graph, selected, onSelect }: Props) {
  const node = graph.nodes.find((n) => n.id === selected);
  const edge = graph.edges.find((e) => e.id === selected);
  const box = graph.boxes.find((b) => b.id === selected);
  return (
    <aside className="graph-panel" aria-label="Details">
      {node !== undefined ? (
        <NodePanel graph={graph} node={node} onSelect={onSelect} />
      ) : edge !== undefined ? (
        <EdgePanel graph={graph} edge={edge} onSelect={onSelect} />
      ) : box !== undefined ? (
        <Head title={boxName(box)} health={box.health} onClose={() => onSelect("")}>
          <EdgeList
            graph={graph}
            title="Traffic into it"
            edges={within(graph, box.id, "target")}
            onSelect={onSelect}
          />
        </Head>
      ) : (
        <WholePanel graph={graph} onSelect={onSelect} />
      )}
    </aside>
  );
}

function WholePanel({ graph, onSelect }: { graph: Graph; onSelect: (id: string) => void }) {
  const failing = graph.edges.filter((e) => ["failure", "degraded"].includes(e.health.status));
  const roots = new Set(graph.nodes.filter((n) => n.badges.includes("root")).map((n) => n.id));
  const entering = graph.edges.filter((e) => roots.has(e.source));
  const apps = new Set(graph.nodes.map((n) => n.app).filter((app) => app !== ""));
  const services = graph.nodes.filter((n) => n.kind === "service");
  return (
    <>
      <Title headingLevel="h2" size="lg">
        {graph.namespaces.length === 0 ? "The whole mesh" : graph.namespaces.join(", ")}
      </Title>
      <Content component="p">
        {apps.size} applications, {services.length} services, {graph.edges.length} edges
      </Content>
      <Facts
        rows={[
          ["Entering", `${rate(sum(entering, "http") + sum(entering, "grpc"))} requests/s`],
          ["TCP", sum(graph.edges, "tcp") > 0 ? bytes(sum(graph.edges, "tcp")) : ""],
        ]}
      />
      {failing.length > 0 ? (
        <EdgeList graph={graph} title="Not healthy" edges={failing} onSelect={onSelect} />
      ) : (
        <Content component="small">No edge has errors. Select one to see its numbers.</Content>
      )}
    </>
  );
}

interface NodeProps {
  graph: Graph;
  node: GraphNode;
  onSelect: (id: string) => void;
}

function NodePanel({ graph, node, onSelect }: NodeProps) {
  const inbound = graph.edges.filter((e) => e.target === node.id);
  const outbound = graph.edges.filter((e) => e.source === node.id);
  return (
    <Head title={nodeName(node)} health={node.health} onClose={() => onSelect("")}>
      {node.badges.length > 0 && (
        <LabelGroup>
          {node.badges.map((badge) => (
            <Label key={badge} isCompact variant="outline">
              {badge.replace("-", " ")}
            </Label>
          ))}
        </LabelGroup>
      )}
      <Facts
        rows={[
          ["Namespace", node.namespace],
          ["Workload", node.workload],
          ["Inbound", `${rate(node.inbound.http + node.inbound.grpc)} requests/s`],
          ["Outbound", `${rate(node.outbound.http + node.outbound.grpc)} requests/s`],
        ]}
      />
      <EdgeList graph={graph} title="Called by" edges={inbound} onSelect={onSelect} far="source" />
      <EdgeList graph={graph} title="Calls" edges={outbound} onSelect={onSelect} far="target" />
    </Head>
  );
}

function EdgePanel({ graph, edge, onSelect }: { graph: Graph; edge: GraphEdge; onSelect: (id: string) => void }) {
  const name = (id: string) => {
    const node = graph.nodes.find((n) => n.id === id);
    return node === undefined ? id : nodeName(node);
  };
  const times = edge.responseTime;
  return (
    <Head
      title={`${name(edge.source)} → ${name(edge.target)}`}
      health={edge.health}
      onClose={() => onSelect("")}
    >
      <Facts
        rows={[
          ["Protocol", edge.protocol],
          ["Rate", volume(edge)],
          ["Errors", edge.protocol === "tcp" ? "" : percent(edge.errorShare)],
          ["Part of its caller's traffic", percent(edge.share)],
          ["Mutual TLS", percent(edge.mtlsShare)],
          ["Response time, average", milliseconds(times.average)],
          ["50th, 95th, 99th percentile", [times.p50, times.p95, times.p99].map(milliseconds).join(", ")],
          ["Caller's identity", edge.sourcePrincipal],
          ["Identity that answers", edge.destinationPrincipal],
        ]}
      />
      {edge.codes.length > 0 && <CodeTable codes={edge.codes} />}
    </Head>
  );
}

interface HeadProps {
  title: string;
  health: Health;
  onClose: () => void;
  children: ReactNode;
}

function Head({ title, health, onClose, children }: HeadProps) {
  return (
    <Flex direction={{ default: "column" }} gap={{ default: "gapMd" }}>
      <Flex flexWrap={{ default: "nowrap" }} justifyContent={{ default: "justifyContentSpaceBetween" }}>
        <FlexItem>
          <Title headingLevel="h2" size="lg">
            {title}
          </Title>
        </FlexItem>
        <FlexItem>
          <Button variant="plain" aria-label="Close" icon={<TimesIcon />} onClick={onClose} />
        </FlexItem>
      </Flex>
      <FlexItem>
        <HealthLabel health={health} /> {health.reason}
      </FlexItem>
      {children}
    </Flex>
  );
}

function Facts({ rows }: { rows: [string, string][] }) {
  return (
    <DescriptionList isCompact>
      {rows
        .filter(([, value]) => value !== "")
        .map(([term, value]) => (
          <DescriptionListGroup key={term}>
            <DescriptionListTerm>{term}</DescriptionListTerm>
            <DescriptionListDescription>{value}</DescriptionListDescription>
          </DescriptionListGroup>
        ))}
    </DescriptionList>
  );
}

interface EdgeListProps {
  graph: Graph;
  title: string;
  edges: GraphEdge[];
  onSelect: (id: string) => void;
  far?: "source" | "target";
}

function EdgeList({ graph, title, edges, onSelect, far }: EdgeListProps) {
  if (edges.length === 0) return null;
  const names = new Map(graph.nodes.map((node) => [node.id, nodeName(node)]));
  const text = (edge: GraphEdge) =>
    far === undefined
      ? `${names.get(edge.source) ?? ""} → ${names.get(edge.target) ?? ""}`
      : (names.get(edge[far]) ?? "");
  return (
    <section className="graph-section">
      <Title headingLevel="h3" size="md">
        {title}
      </Title>
      {edges.map((edge) => (
        <div key={edge.id}>
          <Button variant="link" isInline onClick={() => onSelect(edge.id)}>
            {text(edge)}
          </Button>{" "}
          {volume(edge)}
          {edge.errorShare > 0 && `, ${percent(edge.errorShare)} errors`}
        </div>
      ))}
    </section>
  );
}

function within(graph: Graph, box: string, end: "source" | "target"): GraphEdge[] {
  const parents = new Map([
    ...graph.boxes.map((b) => [b.id, b.parent] as const),
    ...graph.nodes.map((n) => [n.id, n.parent] as const),
  ]);
  const inside = (id: string | null): boolean =>
    id !== null && (id === box || inside(parents.get(id) ?? null));
  return graph.edges.filter((e) => inside(e[end]) && !inside(end === "target" ? e.source : e.target));
}

function sum(edges: GraphEdge[], protocol: GraphEdge["protocol"]): number {
  return edges.filter((e) => e.protocol === protocol).reduce((total, e) => total + e.rate, 0);
}
