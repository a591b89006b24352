/** @file The style of the report's page: light and dark, one column, tabular figures. */

/** CSS, whole. */
export const pageStyle = `
:root { color-scheme: light dark; --ground: #fbfaf7; --ink: #1d2b33; --faint: #6d7a80; --line: #d9d7d0;
  --card: #ffffff; --red: #d4343f; --track: #f1efe9; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d151a; --ink: #e4e9eb; --faint: #8c9aa1;
  --line: #26343c; --card: #131e25; --red: #ff5a63; --track: #16222a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1440px; margin: 0 auto; padding: 20px 24px 48px; }
h1 { font-size: 20px; font-weight: 650; margin: 0; }
h1 small { font-weight: 400; color: var(--faint); font-size: 14px; margin-left: 8px; }
h2 { font-size: 15px; margin: 28px 0 8px; font-weight: 600; }
.tiles { display: flex; flex-wrap: wrap; gap: 8px; margin: 14px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 8px 14px; min-width: 132px; }
.tile b { display: block; font-size: 18px; font-weight: 600; }
.tile span { color: var(--faint); font-size: 12px; }
.tile.bad b { color: var(--red); }
.lanes { position: relative; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; overflow: hidden; }
canvas { display: block; width: 100%; touch-action: none; cursor: grab; }
canvas:focus-visible { outline: 2px solid #3d7ea6; outline-offset: -2px; }
.hint { color: var(--faint); font-size: 12px; margin: 6px 2px; }
.tip { position: absolute; pointer-events: none; background: var(--ink); color: var(--ground);
  padding: 6px 10px; border-radius: 6px; font-size: 12px; max-width: 460px;
  overflow-wrap: anywhere; display: none; z-index: 1; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 8px 2px; font-size: 12px;
  color: var(--faint); }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.tables { display: flex; flex-wrap: wrap; gap: 0 40px; }
.tables section { max-width: 100%; overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th { font-weight: 500; color: var(--faint); text-align: right; padding: 2px 0 2px 18px; }
td { text-align: right; padding: 2px 0 2px 18px; border-top: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.bar { width: 160px; }
td.bar div { height: 9px; border-radius: 2px; min-width: 1px; }
`;
