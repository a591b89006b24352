/**
 * @file Where a node was written: the first line of the stack outside the kernel language itself,
 * looked up in the source map (`tsc` writes one beside each file) only when a report needs it.
 */
import { existsSync, readFileSync } from "node:fs";
import { SourceMap } from "node:module";
import { fileURLToPath } from "node:url";
import type { Position } from "./ir.ts";

const unknown: Position = { file: "unknown", line: 0, column: 0 };

/** Whether a file is the kernel language rather than a kernel. */
function isLanguage(file: string): boolean {
  return file.includes("/codegen/ptx/dsl/") || file.includes("/codegen/ptx/position.");
}

/** The position of the nearest caller that is not part of the kernel language. */
export function callerPosition(): Position {
  const { prepareStackTrace, stackTraceLimit } = Error;
  Error.stackTraceLimit = 24;
  Error.prepareStackTrace = (_, sites) => sites;
  const sites = new Error().stack as unknown as NodeJS.CallSite[];
  Error.prepareStackTrace = prepareStackTrace;
  Error.stackTraceLimit = stackTraceLimit;
  for (const site of sites) {
    const file = site.getFileName();
    if (!file || isLanguage(file)) continue;
    return { file, line: site.getLineNumber() ?? 0, column: site.getColumnNumber() ?? 0 };
  }
  return unknown;
}

const maps = new Map<string, SourceMap | undefined>();

function mapOf(path: string): SourceMap | undefined {
  if (!maps.has(path)) {
    const file = `${path}.map`;
    maps.set(
      path,
      existsSync(file) ? new SourceMap(JSON.parse(readFileSync(file, "utf8"))) : undefined,
    );
  }
  return maps.get(path);
}

/** File and line of TypeScript, or the JavaScript's where there is no source map. */
export function sourceOf(at: Position): { file: string; line: number } {
  const path = at.file.startsWith("file:") ? fileURLToPath(at.file) : at.file;
  const entry = mapOf(path)?.findEntry(at.line - 1, at.column - 1);
  if (!entry || !("originalSource" in entry)) return { file: shorten(path), line: at.line };
  const { pathname } = new URL(entry.originalSource, `file://${path}`);
  return { file: shorten(pathname), line: entry.originalLine + 1 };
}

/** `src/deep-gemm/ptx-fp8.ts:57`. */
export function describePosition(at: Position): string {
  const { file, line } = sourceOf(at);
  return `${file}:${line}`;
}

/** A path from `src/` on, or from `dist/` on. */
function shorten(path: string): string {
  const start = Math.max(path.lastIndexOf("/src/"), path.lastIndexOf("/dist/"));
  return start < 0 ? path : path.slice(start + 1);
}
