/**
 * @file The error codes of `3fs`, with what a caller should do and what a POSIX program is told.
 * The same table is the status on the wire.
 */
import { BaleenError, type RetryAdvice } from "../base/index.ts";

/** A code of this room's errors. */
export type FsErrorCode =
  | "fs-input-invalid"
  | "fs-name-too-long"
  | "fs-unauthenticated"
  | "fs-not-supported"
  | "fs-not-found"
  | "fs-exists"
  | "fs-not-directory"
  | "fs-is-directory"
  | "fs-not-empty"
  | "fs-access-denied"
  | "fs-not-permitted"
  | "fs-symlink-loop"
  | "fs-too-many-links"
  | "fs-file-too-large"
  | "fs-no-attribute"
  | "fs-stale-handle"
  | "fs-quota-exceeded"
  | "fs-cross-quota"
  | "fs-request-stale"
  | "fs-locked"
  | "fs-busy"
  | "mgmtd-not-primary"
  | "mgmtd-stale-version"
  | "mgmtd-unknown"
  | "mgmtd-session-expired"
  | "storage-chain-version-mismatch"
  | "storage-not-serving"
  | "storage-not-head"
  | "storage-chunk-not-found"
  | "storage-chunk-not-committed"
  | "storage-update-stale"
  | "storage-update-busy"
  | "storage-checksum-mismatch"
  | "storage-no-space"
  | "storage-io-failed"
  | "storage-overloaded"
  | "fs-unavailable";

/** Each code: its retry advice and the errno that a mounted file system answers with. */
const codes: Readonly<Record<FsErrorCode, readonly [RetryAdvice, string]>> = {
  // Input.
  "fs-input-invalid": ["never", "EINVAL"],
  "fs-name-too-long": ["never", "ENAMETOOLONG"],
  "fs-unauthenticated": ["never", "EACCES"],
  "fs-not-supported": ["never", "EOPNOTSUPP"],
  // Paths, files and directories.
  "fs-not-found": ["never", "ENOENT"],
  "fs-exists": ["never", "EEXIST"],
  "fs-not-directory": ["never", "ENOTDIR"],
  "fs-is-directory": ["never", "EISDIR"],
  "fs-not-empty": ["never", "ENOTEMPTY"],
  "fs-access-denied": ["never", "EACCES"],
  "fs-not-permitted": ["never", "EPERM"],
  "fs-symlink-loop": ["never", "ELOOP"],
  "fs-too-many-links": ["never", "EMLINK"],
  "fs-file-too-large": ["never", "EFBIG"],
  "fs-no-attribute": ["never", "ENODATA"],
  "fs-stale-handle": ["never", "ESTALE"],
  "fs-quota-exceeded": ["never", "EDQUOT"],
  "fs-cross-quota": ["never", "EXDEV"],
  "fs-request-stale": ["never", "EIO"],
  "fs-locked": ["same", "EAGAIN"],
  "fs-busy": ["same", "EBUSY"],
  // Management.
  "mgmtd-not-primary": ["after-refresh", "EIO"],
  "mgmtd-stale-version": ["after-refresh", "EIO"],
  "mgmtd-unknown": ["never", "EIO"],
  "mgmtd-session-expired": ["after-refresh", "EIO"],
  // Storage.
  "storage-chain-version-mismatch": ["after-refresh", "EIO"],
  "storage-not-serving": ["after-refresh", "EIO"],
  "storage-not-head": ["after-refresh", "EIO"],
  "storage-chunk-not-found": ["never", "EIO"],
  "storage-chunk-not-committed": ["same", "EIO"],
  "storage-update-stale": ["never", "EIO"],
  "storage-update-busy": ["same", "EIO"],
  "storage-checksum-mismatch": ["same", "EIO"],
  "storage-no-space": ["never", "ENOSPC"],
  "storage-io-failed": ["same", "EIO"],
  "storage-overloaded": ["same", "EIO"],
  // Anything.
  "fs-unavailable": ["same", "EIO"],
};

/** The codes, each with its retry advice. */
export const fsErrors: Readonly<Record<FsErrorCode, RetryAdvice>> = Object.fromEntries(
  Object.entries(codes).map(([code, [retry]]) => [code, retry]),
) as Record<FsErrorCode, RetryAdvice>;

/** The name of the errno (`"ENOENT"`) that a POSIX program gets for `error`; `"EIO"` for a stranger's. */
export function errnoOf(error: unknown): string {
  const code = error instanceof BaleenError ? error.code : "";
  return code in codes ? codes[code as FsErrorCode][1] : "EIO";
}

/** A `BaleenError` of this room, with the advice that belongs to its code. */
export function fsError(code: FsErrorCode, message: string, cause?: unknown): BaleenError {
  return new BaleenError(code, message, { retry: fsErrors[code], cause });
}
