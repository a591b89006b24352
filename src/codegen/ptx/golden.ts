/** @file Golden listings: the exact PTX of a kernel lies beside its source, and is reviewed in diffs. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/**
 * The listing's path for a test in `dist`: tsc copies no data, so it lies in `src`. `module` is the
 * test's `import.meta.url`.
 */
function goldenPath(module: string, name: string): string {
  return fileURLToPath(new URL(name, module)).replace("/dist/", "/src/");
}

/**
 * The text and its listing, to be compared; where `UPDATE_GOLDEN` is set the listing is written
 * anew. Undefined where there are no sources (an installed package).
 */
export function goldenListing(module: string, name: string, text: string): string | undefined {
  const path = goldenPath(module, name);
  if (process.env.UPDATE_GOLDEN) writeFileSync(path, text);
  return existsSync(path) ? readFileSync(path, "utf8") : undefined;
}
