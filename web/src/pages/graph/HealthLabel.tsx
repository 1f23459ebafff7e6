import { Label } from "@patternfly/react-core";
import CheckCircleIcon from "@patternfly/react-icons/dist/esm/icons/check-circle-icon";
import ExclamationCircleIcon from "@patternfly/react-icons/dist/esm/icons/exclamation-circle-icon";
import ExclamationTriangleIcon from "@patternfly/react-icons/dist/esm/icons/exclamation-triangle-icon";
import MinusCircleIcon from "@patternfly/react-icons/dist/esm/icons/minus-circle-icon";
import type { Health, HealthStatus } from "../../api/types";
import { healthWord } from "../../graph/format";

const LOOKS: Record<HealthStatus, { color: "green" | "orange" | "red" | "grey"; Icon: typeof CheckCircleIcon }> =
  {
    healthy: { color: "green", Icon: CheckCircleIcon },
    degraded: { color: "orange", Icon: ExclamationTriangleIcon },
    failure: { color: "red", Icon: ExclamationCircleIcon },
    "not-ready": { color: "orange", Icon: MinusCircleIcon },
    unknown: { color: "grey", Icon: MinusCircleIcon },
  };

/** Health as a word and a shape; the reason is the caller's to show. */
export function HealthLabel({ health }: { health: Health }) {
  const { color, Icon } = LOOKS[health.status];
  return (
    <Label color={color} icon={<Icon />} isCompact title={health.reason || undefined}>
      {healthWord(health.status)}
    </Label>
  );
}
