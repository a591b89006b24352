/** @file The error codes of `transport`: what can happen to a call between caller and service. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";

/** A code of this room's errors. */
export type RpcErrorCode =
  | "rpc-address-invalid"
  | "rpc-unreachable"
  | "rpc-closed"
  | "rpc-frame-invalid"
  | "rpc-too-large"
  | "rpc-deadline-exceeded"
  | "rpc-cancelled"
  | "rpc-overloaded"
  | "rpc-unauthenticated"
  | "rpc-method-unknown"
  | "rpc-argument-invalid"
  | "rpc-internal";

/** Those codes, each with its retry advice. A call whose error says `same` may have taken effect. */
export const rpcErrors: Readonly<Record<RpcErrorCode, RetryAdvice>> = {
  /** An address of a form that no transport has, or one beyond loopback that was not asked for. */
  "rpc-address-invalid": "never",
  /** Nobody listens there. */
  "rpc-unreachable": "same",
  /** The connection ended before the answer came. */
  "rpc-closed": "same",
  /** Bytes that are no frame: forged, damaged or cut off. The connection ends. */
  "rpc-frame-invalid": "never",
  /** A message above the limits of the receiver. */
  "rpc-too-large": "never",
  "rpc-deadline-exceeded": "same",
  "rpc-cancelled": "never",
  /** More calls or bytes at once than the receiver, or the queue of the sender, takes. */
  "rpc-overloaded": "same",
  "rpc-unauthenticated": "never",
  "rpc-method-unknown": "never",
  "rpc-argument-invalid": "never",
  /** The service failed with an error that is none of its own: a defect. */
  "rpc-internal": "never",
};

/** A `BaleenError` of this room, with the advice that belongs to its code. */
export function rpcError(code: RpcErrorCode, message: string, cause?: unknown): BaleenError {
  return new BaleenError(code, message, { retry: rpcErrors[code], cause });
}
