// A page that draws one dashboard's JSON with Grafana's own panels against a real Prometheus.
// What it found stands in window.found: {errors, panels: [{title, type, points}], done}.
import 'uplot/dist/uPlot.min.css';
import * as data from '@grafana/data';
import {
  applyFieldOverrides, createTheme, dateTime, FieldConfigOptionsRegistry, FieldType, getFieldDisplayValues, ThemeContext,
  standardTransformersRegistry, toDataFrame, transformDataFrame,
} from '@grafana/data';
import {initPluginTranslations} from '@grafana/i18n';
import {
  BarGauge, BarGaugeDisplayMode, BigValue, BigValueColorMode, BigValueGraphMode, BigValueTextMode, GlobalStyles, PanelChrome, Table,
  TimeSeries,
} from '@grafana/ui';
import React, {useEffect, useState} from 'react';
import {createRoot} from 'react-dom/client';

const WIDTH = 1600;
const ROW = 38;
const STEP = 10;
const theme = createTheme({colors: {mode: 'dark'}});
const found: any = {errors: [], panels: [], done: false};
(window as any).found = found;
const chosen = Object.fromEntries(new URLSearchParams(location.search));
const to = Date.now();
const range = {from: to - Number(chosen.span || 900) * 1000, to};

function makeFieldOption(name: string) {
  const custom = name.startsWith('custom.');
  return {
    id: name, path: custom ? name.slice(7) : name, isCustom: custom, name, description: '', editor: () => null, override: () => null,
    process: (value: any) => value, shouldApply: () => true, settings: {},
  };
}
const FIELD_OPTIONS = [
  'unit', 'min', 'max', 'decimals', 'displayName', 'color', 'thresholds', 'mappings', 'links', 'noValue', 'filterable',
  'custom.lineWidth', 'custom.fillOpacity', 'custom.showPoints', 'custom.stacking', 'custom.width',
].map(makeFieldOption);
const fieldOptions = new FieldConfigOptionsRegistry(() => FIELD_OPTIONS as any);
for (const transformer of Object.values((data as any).standardTransformers) as any[]) {
  if (!standardTransformersRegistry.getIfExists(transformer.id)) {
    standardTransformersRegistry.register(
      {id: transformer.id, name: transformer.name, editor: null, transformation: () => Promise.resolve(transformer)} as any);
  }
}

function interpolate(text: string, variables: Record<string, any>): string {
  const seconds = (range.to - range.from) / 1000;
  const given: any = {...variables, __rate_interval: '30s', __interval: `${STEP}s`, __range: `${seconds}s`};
  return text.replace(/\$\{([\w.]+)(?::\w+)?\}|\$(\w+)/g, (whole, braced, plain) => {
    const name = braced || plain;
    if (name.startsWith('__data.')) return whole;
    if (!(name in given)) found.errors.push(`undefined variable ${whole}`);
    return name in given ? given[name] : whole;
  });
}

async function ask(path: string, parameters: Record<string, any>): Promise<any> {
  const answer = await (await fetch(`${path}?${new URLSearchParams(parameters)}`)).json();
  if (answer.status !== 'success') throw new Error(`${answer.errorType}: ${answer.error}`);
  return answer.data;
}

function nameSeries(legend: string | undefined, labels: Record<string, string>): string | undefined {
  return legend?.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? '');
}

function buildFrame(name: string | undefined, labels: any, times: number[], values: number[]) {
  return toDataFrame({name, fields: [
    {name: 'Time', type: FieldType.time, values: times.map((time) => time * 1000)},
    {name: 'Value', type: FieldType.number, labels, config: {displayNameFromDS: name}, values},
  ]});
}

function buildTable(result: any[]) {
  const labels = [...new Set(result.flatMap((row) => Object.keys(row.metric)))] as string[];
  return toDataFrame({fields: [
    {name: 'Time', type: FieldType.time, values: result.map((row) => row.value[0] * 1000)},
    ...labels.map((label) => ({name: label, type: FieldType.string, values: result.map((row) => row.metric[label])})),
    {name: 'Value', type: FieldType.number, values: result.map((row) => Number(row.value[1]))},
  ]});
}

async function runTarget(target: any, variables: any): Promise<any[]> {
  const query = interpolate(target.expr, variables);
  if (target.instant) {
    const {result} = await ask('/api/v1/query', {query, time: range.to / 1000});
    if (target.format === 'table') return [buildTable(result)];
    return result.map((row: any) =>
      buildFrame(nameSeries(target.legendFormat, row.metric), row.metric, [row.value[0]], [Number(row.value[1])]));
  }
  const {result} = await ask('/api/v1/query_range', {query, start: range.from / 1000, end: range.to / 1000, step: STEP});
  return result.map((row: any) => buildFrame(
    nameSeries(target.legendFormat, row.metric), row.metric, row.values.map((pair: any) => pair[0]),
    row.values.map((pair: any) => Number(pair[1]))));
}

async function runPanel(panel: any, variables: any): Promise<any[]> {
  let frames = (await Promise.all(panel.targets.map((target: any) => runTarget(target, variables)))).flat();
  if (panel.transformations?.length) {
    frames = await new Promise((resolve, reject) =>
      transformDataFrame(panel.transformations, frames).subscribe({next: resolve, error: reject}));
  }
  const defaults = {color: {mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds'}, ...panel.fieldConfig.defaults};
  return applyFieldOverrides({
    data: frames, fieldConfig: {defaults, overrides: panel.fieldConfig.overrides}, theme, fieldConfigRegistry: fieldOptions as any,
    replaceVariables: (text: string) => interpolate(text, variables), timeZone: 'utc',
  });
}

function Drawn({panel, series, width, height}: any) {
  if (panel.type === 'timeseries') {
    const timeRange: any = {from: dateTime(range.from), to: dateTime(range.to), raw: {from: 'now-15m', to: 'now'}};
    const legend: any = {displayMode: 'list', placement: 'bottom', showLegend: true, calcs: []};
    return <TimeSeries frames={series} timeRange={timeRange} timeZone="utc" width={width} height={height} legend={legend}
      options={{} as any} structureRev={1} />;
  }
  if (panel.type === 'table') return <Table data={series[0]} width={width} height={height} />;
  const values = getFieldDisplayValues({
    fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: (text: string) => text, theme,
    data: series, sparkline: false, timeZone: 'utc',
  } as any);
  if (panel.type === 'stat') {
    return <div style={{display: 'flex'}}>{values.map((value, at) => <BigValue key={at} value={value.display} theme={theme}
      width={width / values.length} height={height} colorMode={BigValueColorMode.Value} graphMode={BigValueGraphMode.None}
      textMode={panel.options.textMode as BigValueTextMode} />)}</div>;
  }
  if (panel.type === 'bargauge') {
    return <div>{values.map((value, at) => <BarGauge key={at} value={value.display} field={value.field} theme={theme} width={width}
      height={height / values.length - 4} display={value.view?.getFieldDisplayProcessor?.(value.colIndex)}
      orientation={'horizontal' as any} displayMode={BarGaugeDisplayMode.Gradient} />)}</div>;
  }
  found.errors.push(`panel of unknown type ${panel.type}`);
  return <div />;
}

class Guard extends React.Component<any, any> {
  state = {broken: false};
  static getDerivedStateFromError() { return {broken: true}; }
  componentDidCatch(error: Error) { found.errors.push(`${this.props.title}: ${error.message}`); }
  render() { return this.state.broken ? <div /> : this.props.children; }
}

function Words({panel}: any) {
  return <div style={{padding: 8, whiteSpace: 'pre-wrap', fontSize: 13}}>{panel.options.content.replace(/\*\*/g, '')}</div>;
}

function Board({dashboard, variables}: any) {
  const [results, setResults] = useState<any>({});
  useEffect(() => { void (async () => {
    const all: any = {};
    for (const panel of dashboard.panels.filter((each: any) => each.type !== 'text')) {
      try { all[panel.title] = await runPanel(panel, variables); } catch (error: any) {
        found.errors.push(`${panel.title}: ${error.message}`);
        all[panel.title] = [];
      }
      const points = all[panel.title].reduce((sum: number, frame: any) => sum + frame.length, 0);
      found.panels.push({title: panel.title, type: panel.type, points});
    }
    setResults(all);
    setTimeout(() => { found.done = true; }, 800);
  })(); }, []);
  const column = WIDTH / 24;
  const rows = Math.max(...dashboard.panels.map((panel: any) => panel.gridPos.y + panel.gridPos.h));
  const background = theme.colors.background.canvas;
  return <ThemeContext.Provider value={theme}><GlobalStyles />
    <div style={{background, position: 'relative', width: WIDTH, height: rows * ROW + 8, color: theme.colors.text.primary}}>
      {dashboard.panels.map((panel: any) => {
        const {x, y, w, h} = panel.gridPos;
        const [width, height] = [w * column - 8, h * ROW - 8];
        return <div key={panel.id} style={{position: 'absolute', left: x * column + 4, top: y * ROW + 4, width, height}}>
          <Guard title={panel.title}>
            <PanelChrome title={panel.title} width={width} height={height}>{(innerWidth: number, innerHeight: number) =>
              panel.type === 'text' ? <Words panel={panel} />
                : results[panel.title]?.length
                  ? <Drawn panel={panel} series={results[panel.title]} width={innerWidth} height={innerHeight} /> : <span />
            }</PanelChrome>
          </Guard>
        </div>;
      })}
    </div>
  </ThemeContext.Provider>;
}

async function chooseVariables(dashboard: any): Promise<Record<string, any>> {
  const variables: Record<string, any> = {};
  for (const each of dashboard.templating.list) {
    if (each.name in chosen) variables[each.name] = chosen[each.name];
    else if (each.type === 'datasource') variables[each.name] = 'prometheus';
    else if (each.type === 'textbox') variables[each.name] = each.query;
    else {
      const [, selector, label] = /label_values\((.+),\s*(\w+)\)/.exec(each.query.query)!;
      const values = await ask(`/api/v1/label/${label}/values`, {'match[]': interpolate(selector, variables)});
      if (!values.length) found.errors.push(`variable ${each.name} has no values`);
      variables[each.name] = each.includeAll ? each.allValue : values[0];
    }
  }
  return variables;
}

async function start() {
  try {
    await (initPluginTranslations as any)('grafana', []);
    const dashboard = await (await fetch('/dashboard.json')).json();
    const variables = await chooseVariables(dashboard);
    createRoot(document.getElementById('root')!).render(<Board dashboard={dashboard} variables={variables} />);
  } catch (error: any) {
    found.errors.push(`start: ${error.stack}`);
    found.done = true;
  }
}
void start();
