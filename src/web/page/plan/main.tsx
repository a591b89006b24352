/** @file Starts the planner's page. */
import { render } from "preact";
import { App } from "./app.tsx";
import "uplot/dist/uPlot.min.css";
import "../style.css";
import "./plan.css";

render(<App />, document.getElementById("app")!);
