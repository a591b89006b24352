/** @file Builds the two pages, dashboard and planner, into `dist/web/page`. */
import { defineConfig } from "vite";

export default defineConfig({
  root: import.meta.dirname,
  // Relative addresses: the page may be served from any path.
  base: "./",
  // Preact by the bundler's own JSX transform.
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  // For work on the page: the API is that of a server started beside (`npm start`).
  server: { proxy: { "/v1": "http://localhost:8000" } },
  build: {
    outDir: "../../../dist/web/page",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: ["index.html", "plan.html"].map((file) => `${import.meta.dirname}/${file}`),
    },
  },
});
