import { Table, Tbody, Td, Th, Thead, Tr, type ThProps } from "@patternfly/react-table";
import { useMemo, useState } from "react";
import type { Graph, GraphEdge } from "../../api/types";
import { milliseconds, percent, volume } from "../../graph/format";
import { HealthLabel } from "./HealthLabel";
import { nodeName } from "./names";

interface Props {
  graph: Graph;
  find: string;
  selected: string;
  onSelect: (id: string) => void;
}

interface Row {
  edge: GraphEdge;
  from: string;
  to: string;
}

const COLUMNS: { name: string; of: (row: Row) => string | number; numeric?: boolean }[] = [
  { name: "From", of: (row) => row.from },
  { name: "To", of: (row) => row.to },
  { name: "Protocol", of: (row) => row.edge.protocol },
  { name: "Health", of: (row) => row.edge.health.status },
  { name: "Rate", of: (row) => row.edge.rate, numeric: true },
  { name: "Errors", of: (row) => row.edge.errorShare, numeric: true },
  { name: "p95", of: (row) => row.edge.responseTime.p95 ?? 0, numeric: true },
  { name: "mTLS", of: (row) => row.edge.mtlsShare, numeric: true },
];

/** The graph's twin: the same edges, as rows. */
export function GraphTable({ graph, find, selected, onSelect }: Props) {
  const [by, setBy] = useState({ index: 0, direction: "asc" as "asc" | "desc" });
  const rows = useMemo(() => sorted(graph, find, by), [graph, find, by]);
  const sort = (columnIndex: number): ThProps["sort"] => ({
    sortBy: by,
    columnIndex,
    onSort: (_event, index, direction) => setBy({ index, direction }),
  });
  return (
    <div className="graph-table">
      <Table aria-label="Traffic" variant="compact" isStickyHeader>
        <Thead>
          <Tr>
            {COLUMNS.map((column, index) => (
              <Th key={column.name} sort={sort(index)} modifier="nowrap">
                {column.name}
              </Th>
            ))}
          </Tr>
        </Thead>
        <Tbody>
          {rows.map(({ edge, from, to }) => (
            <Tr
              key={edge.id}
              isClickable
              isRowSelected={edge.id === selected}
              onRowClick={() => onSelect(edge.id)}
            >
              <Td dataLabel="From">{from}</Td>
              <Td dataLabel="To">{to}</Td>
              <Td dataLabel="Protocol">{edge.protocol}</Td>
              <Td dataLabel="Health">
                <HealthLabel health={edge.health} />
              </Td>
              <Td dataLabel="Rate">{volume(edge)}</Td>
              <Td dataLabel="Errors">{edge.protocol === "tcp" ? "–" : percent(edge.errorShare)}</Td>
              <Td dataLabel="p95">{milliseconds(edge.responseTime.p95)}</Td>
              <Td dataLabel="mTLS">{percent(edge.mtlsShare)}</Td>
            </Tr>
          ))}
        </Tbody>
      </Table>
    </div>
  );
}

function sorted(graph: Graph, find: string, by: { index: number; direction: string }): Row[] {
  const names = new Map(graph.nodes.map((node) => [node.id, nodeName(node)]));
  const wanted = find.trim().toLowerCase();
  const rows = graph.edges.map((edge) => ({
    edge,
    from: names.get(edge.source) ?? edge.source,
    to: names.get(edge.target) ?? edge.target,
  }));
  const kept = rows.filter((row) => `${row.from} ${row.to}`.toLowerCase().includes(wanted));
  const column = COLUMNS[by.index] ?? COLUMNS[0];
  const sign = by.direction === "asc" ? 1 : -1;
  return kept.sort((a, b) => {
    if (column === undefined) return 0;
    const [x, y] = [column.of(a), column.of(b)];
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
}
