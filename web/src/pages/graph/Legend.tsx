import { Card, CardBody, CardTitle } from "@patternfly/react-core";
import type { ReactNode } from "react";

const COLORS = {
  healthy: "var(--pf-t--global--color--status--success--default)",
  degraded: "var(--pf-t--global--color--status--warning--default)",
  failure: "var(--pf-t--global--color--status--danger--default)",
  plain: "var(--pf-t--global--text--color--subtle)",
};

export function Legend() {
  return (
    <Card isCompact className="graph-legend">
      <CardTitle>Legend</CardTitle>
      <CardBody>
        <dl>
          <Row text="Version of an application">
            <circle cx="16" cy="10" r="7" fill="none" stroke={COLORS.plain} strokeWidth="2" />
          </Row>
          <Row text="Service">
            <path d="M16 3l8 14H8z" fill="none" stroke={COLORS.plain} strokeWidth="2" />
          </Row>
          <Row text="Gateway">
            <path d="M16 2l8 8-8 8-8-8z" fill="none" stroke={COLORS.plain} strokeWidth="2" />
          </Row>
          <Row text="Source outside the mesh">
            <path
              d="M13 3h6l4 4v6l-4 4h-6l-4-4V7z"
              fill="none"
              stroke={COLORS.plain}
              strokeWidth="2"
              strokeDasharray="3 2"
            />
          </Row>
          <Row text="Healthy">
            <path d="M2 10h28" stroke={COLORS.healthy} strokeWidth="3" />
          </Row>
          <Row text="Degraded: double border, share of errors">
            <path d="M2 8h28M2 12h28" stroke={COLORS.degraded} strokeWidth="2" />
          </Row>
          <Row text="Failing: double border, thick edge">
            <path d="M2 10h28" stroke={COLORS.failure} strokeWidth="5" />
          </Row>
          <Row text="TCP">
            <path d="M2 10h28" stroke={COLORS.plain} strokeWidth="2" strokeDasharray="2 3" />
          </Row>
          <Row text="Mutual TLS">
            <path d="M13 9V7a3 3 0 0 1 6 0v2" fill="none" stroke={COLORS.plain} strokeWidth="2" />
            <rect x="11" y="9" width="10" height="8" rx="1.5" fill={COLORS.plain} />
          </Row>
        </dl>
      </CardBody>
    </Card>
  );
}

function Row({ text, children }: { text: string; children: ReactNode }) {
  return (
    <>
      <dt>
        <svg width="32" height="20" aria-hidden="true">
          {children}
        </svg>
      </dt>
      <dd>{text}</dd>
    </>
  );
}
