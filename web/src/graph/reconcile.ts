import type { Core, ElementDefinition } from "cytoscape";

/** Bring the canvas to `wanted` without touching what stays, nor where it stands. */
export function reconcile(cy: Core, wanted: ElementDefinition[]): void {
  cy.batch(() => {
    const ids = new Set(wanted.map((element) => element.data.id));
    cy.elements()
      .filter((element) => !ids.has(element.id()))
      .remove();
    const added: ElementDefinition[] = [];
    for (const element of wanted) {
      const id = element.data.id;
      const found = id === undefined ? cy.collection() : cy.getElementById(id);
      if (found.empty()) {
        added.push(element);
      } else {
        const parent = (element.data.parent as string | undefined) ?? null;
        if (element.group === "nodes" && (found.parent().first().id() ?? null) !== parent) {
          found.move({ parent });
        }
        found.data(element.data);
      }
    }
    cy.add(added);
  });
}
