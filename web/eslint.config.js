import reactHooks from "eslint-plugin-react-hooks";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules", "dist", "eslint.config.js", "e2e"] },
  ...tseslint.configs.strict,
  reactHooks.configs.flat.recommended,
  { rules: { "max-lines": ["error", 300] } },
);
