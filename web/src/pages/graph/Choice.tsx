import { Badge, MenuToggle, Select, SelectList, SelectOption } from "@patternfly/react-core";
import { useState } from "react";

interface ChoiceProps {
  name: string;
  options: Record<string, string>;
  chosen: string;
  onChange: (value: string) => void;
}

/** One of several. */
export function Choice({ name, options, chosen, onChange }: ChoiceProps) {
  const [open, setOpen] = useState(false);
  return (
    <Select
      isOpen={open}
      selected={chosen}
      onOpenChange={setOpen}
      onSelect={(_event, value) => {
        onChange(String(value));
        setOpen(false);
      }}
      toggle={(ref) => (
        <MenuToggle
          ref={ref}
          aria-label={`${name}: ${options[chosen] ?? chosen}`}
          isExpanded={open}
          onClick={() => setOpen(!open)}
        >
          {options[chosen] ?? chosen}
        </MenuToggle>
      )}
    >
      <SelectList aria-label={name}>
        {Object.entries(options).map(([value, text]) => (
          <SelectOption key={value} value={value}>
            {text}
          </SelectOption>
        ))}
      </SelectList>
    </Select>
  );
}

interface ChoicesProps {
  name: string;
  all: string;
  options: string[];
  chosen: string[];
  onChange: (values: string[]) => void;
}

/** Any of several; none chosen means all. */
export function Choices({ name, all, options, chosen, onChange }: ChoicesProps) {
  const [open, setOpen] = useState(false);
  const toggle = (value: string) =>
    chosen.includes(value) ? chosen.filter((c) => c !== value) : [...chosen, value].sort();
  const text = chosen.length === 0 ? all : chosen.length === 1 ? chosen[0] : name;
  return (
    <Select
      role="menu"
      isOpen={open}
      selected={chosen}
      onOpenChange={setOpen}
      onSelect={(_event, value) => onChange(toggle(String(value)))}
      toggle={(ref) => (
        <MenuToggle
          ref={ref}
          aria-label={chosen.length > 1 ? `${name} ${chosen.length}` : `${name}: ${text}`}
          isExpanded={open}
          onClick={() => setOpen(!open)}
          badge={chosen.length > 1 ? <Badge isRead>{chosen.length}</Badge> : undefined}
        >
          {text}
        </MenuToggle>
      )}
    >
      <SelectList aria-label={name}>
        {options.map((option) => (
          <SelectOption
            key={option}
            value={option}
            hasCheckbox
            isSelected={chosen.includes(option)}
          >
            {option}
          </SelectOption>
        ))}
      </SelectList>
    </Select>
  );
}
