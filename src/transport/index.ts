/** @file Door of `transport`: framed calls between processes, over any link. */
export { Budget } from "./budget.ts";
export {
  type CallOptions,
  Connection,
  type ConnectionOptions,
  type Handler,
  type IncomingCall,
  type Message,
  message,
} from "./connection.ts";
export { type RpcErrorCode, rpcErrors } from "./errors.ts";
export { FaultyNetwork, type NetworkFaults, noFaults } from "./faulty.ts";
export { InProcessTransport } from "./in-process.ts";
export type { Link, LinkEvents, Listener, Transport } from "./link.ts";
export { ConnectionPool, connect, listen, type RpcOptions, type RpcServer } from "./rpc.ts";
export {
  CallContext,
  type Caller,
  defineService,
  handlerOf,
  type Remote,
  remote,
  type Served,
  type Service,
  served,
} from "./service.ts";
