// node draw.mjs PROMETHEUS QUERY OUT DASHBOARD...: draws each into OUT/NAME.png, and prints {NAME: {errors, panels}} as JSON.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {chromium} from 'playwright-core';

const [prometheus, query, out, ...dashboards] = process.argv.slice(2);
const here = path.dirname(fileURLToPath(import.meta.url));
const types = {'.css': 'text/css', '.js': 'text/javascript'};
let shown = '';

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  if (url.pathname.startsWith('/api/')) {
    http.get(prometheus + request.url, (answer) => {
      response.writeHead(answer.statusCode, {'content-type': 'application/json'});
      answer.pipe(response);
    }).on('error', (error) => response.writeHead(502).end(String(error)));
  } else if (url.pathname === '/dashboard.json') {
    response.end(fs.readFileSync(shown));
  } else if (url.pathname === '/') {
    response.writeHead(200, {'content-type': 'text/html'});
    response.end('<link rel="icon" href="data:,"><link rel="stylesheet" href="/panels.css"><body style="margin:0;background:#111">'
      + '<div id="root"></div><script type="module" src="/panels.js"></script>');
  } else {
    const file = path.join(here, 'out', path.normalize(url.pathname));
    if (!fs.existsSync(file)) return void response.writeHead(404).end();
    response.writeHead(200, {'content-type': types[path.extname(file)] || 'application/octet-stream'});
    fs.createReadStream(file).pipe(response);
  }
}).listen(0, '127.0.0.1');

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const found = {};
for (const dashboard of dashboards) {
  shown = dashboard;
  const name = path.basename(dashboard, '.json');
  const page = await browser.newPage({viewport: {width: 1600, height: 600}});
  const thrown = [];
  page.on('pageerror', (error) => thrown.push(error.message));
  await page.goto(`http://127.0.0.1:${server.address().port}/?${query}`);
  await page.waitForFunction('window.found?.done', null, {timeout: 60_000}).catch(() => thrown.push('it was not drawn within 60 s'));
  const {errors, panels} = await page.evaluate('window.found ?? {errors: [], panels: []}');
  found[name] = {errors: [...errors, ...thrown], panels};
  await page.screenshot({path: path.join(out, `${name}.png`), fullPage: true});
  await page.close();
}
await browser.close();
server.close();
console.log(JSON.stringify(found));
