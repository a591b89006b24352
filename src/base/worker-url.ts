/** @file Where a worker's module lies: tsc rewrites import specifiers but no strings. */

/**
 * The URL of the module `name` (`"./worker"`, no extension) beside the module whose
 * `import.meta.url` is given, with that module's own extension (`.ts` in `src`, `.js` in `dist`).
 */
export function workerUrl(importMetaUrl: string, name: string): URL {
  const extension = importMetaUrl.slice(importMetaUrl.lastIndexOf("."));
  return new URL(name + extension, importMetaUrl);
}
