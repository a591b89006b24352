/** @file From a failed zod check to one sentence that names the field, what was got and wanted. */
import type { z } from "@hono/zod-openapi";
import { type ApiError, invalid } from "./errors.ts";

/**
 * `body` as `schema` sees it, or a 400 for its first fault. Every schema's own message is what is
 * wanted (`a number from 0 to 2`), so that the sentence is complete.
 */
export function validate<T extends z.ZodType>(schema: T, body: unknown): z.output<T> {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  throw faultOf(result.error.issues[0], body);
}

function faultOf(issue: z.core.$ZodIssue, body: unknown): ApiError {
  const { path, wanted } = deepest(issue, []);
  const param = paramOf(path);
  const value = path.reduce<unknown>(
    (at, key) => (at as Record<PropertyKey, unknown> | null | undefined)?.[key],
    body,
  );
  if (value === undefined) {
    return invalid(
      param,
      "missing_required_parameter",
      `${param} is missing: add it, as ${wanted}.`,
    );
  }
  return invalid(
    param,
    issue.code === "invalid_type" || issue.code === "invalid_union"
      ? "invalid_type"
      : "invalid_value",
    `${param}: got ${show(value)}, wanted ${wanted}. Correct it and send the request again.`,
  );
}

/** Inside a union, the alternative that failed furthest in is the one that was meant. */
function deepest(
  issue: z.core.$ZodIssue,
  above: readonly PropertyKey[],
): { path: PropertyKey[]; wanted: string } {
  const path = [...above, ...issue.path];
  if (issue.code === "invalid_union") {
    const inner = issue.errors
      .flatMap((issues) => issues.slice(0, 1))
      .map((one) => deepest(one, path))
      .reduce((best, one) => (one.path.length > best.path.length ? one : best), {
        path,
        wanted: issue.message,
      });
    return inner;
  }
  return { path, wanted: issue.message };
}

/** `["messages", 0, "content"]` as `messages[0].content`. */
function paramOf(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, key) =>
      typeof key === "number"
        ? `${text}[${key}]`
        : text === ""
          ? String(key)
          : `${text}.${String(key)}`,
    "",
  );
}

/** A value in a few characters, for messages. */
export function show(value: unknown): string {
  if (typeof value === "number" || value === undefined) return String(value);
  if (typeof value === "string" && value.length > 40) {
    return `a text of ${value.length} characters`;
  }
  const text = JSON.stringify(value) ?? String(value);
  if (text.length <= 60) return text;
  return Array.isArray(value) ? `a list of ${value.length}` : `${text.slice(0, 57)}...`;
}
