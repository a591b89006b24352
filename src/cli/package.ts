/** @file Where the package lies, and which version it is. */
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of the package: the clone, or its place in `node_modules`. */
export const packageRoot: string = resolve(dirname(fileURLToPath(import.meta.url)), "..", "..");

/** The small model that ships with the package. */
export const shippedModel: string = join(packageRoot, "models", "austen-6m");

/** The package's version. */
export function packageVersion(): string {
  const text = readFileSync(join(packageRoot, "package.json"), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
