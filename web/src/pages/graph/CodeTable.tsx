import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import type { CodeRate } from "../../api/types";
import { rate } from "../../graph/format";

/** Answers by code, with Envoy's own reason for those it gave itself. */
export function CodeTable({ codes }: { codes: CodeRate[] }) {
  return (
    <Table aria-label="Answers by code" variant="compact" borders={false}>
      <Thead>
        <Tr>
          <Th>Code</Th>
          <Th>Flags</Th>
          <Th>Rate</Th>
        </Tr>
      </Thead>
      <Tbody>
        {codes.map((code) => (
          <Tr key={`${code.code} ${code.flags}`}>
            <Td dataLabel="Code">{code.code}</Td>
            <Td dataLabel="Flags">{code.flags}</Td>
            <Td dataLabel="Rate">{rate(code.rate)}/s</Td>
          </Tr>
        ))}
      </Tbody>
    </Table>
  );
}
