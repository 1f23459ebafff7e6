import { Label, Popover } from "@patternfly/react-core";
import CheckCircleIcon from "@patternfly/react-icons/dist/esm/icons/check-circle-icon";
import ExclamationCircleIcon from "@patternfly/react-icons/dist/esm/icons/exclamation-circle-icon";
import ExclamationTriangleIcon from "@patternfly/react-icons/dist/esm/icons/exclamation-triangle-icon";
import InfoCircleIcon from "@patternfly/react-icons/dist/esm/icons/info-circle-icon";
import { useMesh, useProblems } from "../api/hooks";
import type { Mesh, Problem, Severity } from "../api/types";

/** The mesh in one chip: how many proxies, whether each has its configuration, what is wrong. */
export function MeshState() {
  const { data, isError } = useMesh();
  if (isError) {
    return (
      <Label color="red" icon={<ExclamationTriangleIcon />}>
        The control plane does not answer
      </Label>
    );
  }
  if (data === undefined) return null;
  const good = data.proxies === data.proxiesSynced && data.problems === 0;
  const look = {
    color: good ? ("green" as const) : ("orange" as const),
    icon: good ? <CheckCircleIcon /> : <ExclamationTriangleIcon />,
    children: words(data),
  };
  if (data.problems === 0) return <Label {...look} />;
  return (
    <Popover
      aria-label="Configuration problems"
      position="bottom-start"
      minWidth="22rem"
      maxWidth="36rem"
      bodyContent={<Problems />}
    >
      {/* A chip with an action is a button: it opens the list by keyboard too. */}
      <Label {...look} onClick={() => undefined} />
    </Popover>
  );
}

function words({ proxies, proxiesSynced, problems }: Mesh): string {
  const late = proxies - proxiesSynced;
  const parts = [
    counted(proxies, "proxy", "proxies"),
    late === 0 ? "all in sync" : `${late} not in sync`,
  ];
  if (problems > 0) parts.push(counted(problems, "problem", "problems"));
  return parts.join(", ");
}

function counted(count: number, one: string, many: string): string {
  return `${count} ${count === 1 ? one : many}`;
}

const ICONS: Record<Severity, React.ReactNode> = {
  error: <ExclamationCircleIcon color="var(--pf-t--global--icon--color--status--danger--default)" />,
  warning: (
    <ExclamationTriangleIcon color="var(--pf-t--global--icon--color--status--warning--default)" />
  ),
  info: <InfoCircleIcon color="var(--pf-t--global--icon--color--status--info--default)" />,
};

function Problems() {
  const { data, isError } = useProblems();
  if (isError) return <p>The control plane does not answer.</p>;
  if (data === undefined) return null;
  return (
    <ul className="problems">
      {data.map((problem) => (
        <li key={`${problem.code} ${problem.kind} ${problem.namespace} ${problem.name} ${problem.path}`}>
          <Entry problem={problem} />
        </li>
      ))}
    </ul>
  );
}

function Entry({ problem }: { problem: Problem }) {
  const place = problem.namespace === "" ? problem.name : `${problem.name}.${problem.namespace}`;
  return (
    <>
      <span className="problem-head">
        {ICONS[problem.severity]}
        <span className="pf-v6-screen-reader">{problem.severity}</span>
        <strong>
          {problem.kind} {place}
        </strong>
        <span className="problem-code">{problem.code}</span>
      </span>
      {problem.path !== "" && <code>{problem.path}</code>}
      <span>{problem.message}</span>
    </>
  );
}
