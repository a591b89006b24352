/**
 * @file Errors as the OpenAI API spells them: `{error: {message, type, param, code}}` and a status.
 * Messages name the field, say what was got and wanted, and end with the next step.
 */
import { BaleenError } from "../../base/index.ts";

/** The error types of the OpenAI API that this server uses. */
export type ApiErrorType =
  | "invalid_request_error"
  | "authentication_error"
  | "rate_limit_error"
  | "server_error";

/** A failure with its HTTP status and OpenAI body. */
export class ApiError extends Error {
  readonly status: number;
  /** Stable, snake_case as the OpenAI API's. */
  readonly code: string;
  /** The offending field, such as `messages[0].content`, or null. */
  readonly param: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    code: string,
    message: string,
    options: {
      param?: string;
      headers?: Readonly<Record<string, string>>;
      cause?: unknown;
    } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = options.param ?? null;
    this.headers = options.headers ?? {};
  }

  /** The OpenAI `type` of the status. */
  get type(): ApiErrorType {
    if (this.status === 401) return "authentication_error";
    if (this.status === 429) return "rate_limit_error";
    return this.status >= 500 ? "server_error" : "invalid_request_error";
  }

  /** The body as it goes over the wire. */
  get body(): { error: { message: string; type: string; param: string | null; code: string } } {
    return {
      error: { message: this.message, type: this.type, param: this.param, code: this.code },
    };
  }
}

/** A 400 that names `param`. */
export function invalid(param: string, code: string, message: string): ApiError {
  return new ApiError(400, code, message, { param });
}

/** A 503 for requests that come, or are cut off, while the server stops. */
export function draining(): ApiError {
  return new ApiError(
    503,
    "shutting_down",
    "The server is shutting down. Send the request again when it is back.",
    { headers: { "retry-after": "5" } },
  );
}

/** A 503 for requests that come before the model is loaded. */
export function loading(): ApiError {
  return new ApiError(
    503,
    "model_loading",
    "The model is still loading. Ask /ready and send the request again when it answers 200.",
    { headers: { "retry-after": "1" } },
  );
}

/** Statuses of codes that are not the server's own fault. */
const statusOfCode: Readonly<Record<string, number>> = {
  "invalid-request": 400,
  "prompt-too-long": 400,
  "queue-full": 429,
  "engine-closing": 503,
  "engine-failed": 503,
};

/** An engine's failure, by the code of its `BaleenError` or of its last event. */
export function engineFailure(code: string, message: string, cause?: unknown): ApiError {
  const status = statusOfCode[code] ?? 500;
  return new ApiError(
    status,
    code === "prompt-too-long" ? "context_length_exceeded" : code.replaceAll("-", "_"),
    message,
    { cause, ...((status === 429 || status === 503) && { headers: { "retry-after": "1" } }) },
  );
}

/**
 * Whatever was thrown, as an `ApiError`: operating failures keep their sentence; anything else is a
 * fault of the server, whose details go to its log and not to the client.
 */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof BaleenError) return engineFailure(error.code, error.message, error);
  return new ApiError(
    500,
    "internal_error",
    "The server failed on this request. Its log says why; the request may be sent again.",
    { cause: error },
  );
}

/** The error as a whole response. */
export function errorResponse(error: ApiError): Response {
  return new Response(JSON.stringify(error.body), {
    status: error.status,
    headers: { "content-type": "application/json", ...error.headers },
  });
}
