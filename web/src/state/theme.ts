import { useSyncExternalStore } from "react";

export type Theme = "light" | "dark";

const KEY = "meltemi.theme";
const listeners = new Set<() => void>();

function stored(): Theme {
  const said = localStorage.getItem(KEY);
  if (said === "light" || said === "dark") {
    return said;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

let current: Theme = stored();

function show(theme: Theme): void {
  document.documentElement.classList.toggle("pf-v6-theme-dark", theme === "dark");
  document.documentElement.style.colorScheme = theme;
}

export function setTheme(theme: Theme): void {
  current = theme;
  localStorage.setItem(KEY, theme);
  show(theme);
  listeners.forEach((listener) => listener());
}

export function useTheme(): Theme {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => current,
  );
}

show(current);
