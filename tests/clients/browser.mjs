// Headless Chromium on one page, led from outside.
//
//     node browser.mjs CHROMIUM PAGE_URL [HEADERS]
//
// HEADERS, a JSON object, go with every request: what a setting of the browser
// would add (DNT, Sec-GPC), and no script can.
// Prints one JSON line for each thing that the page reports (pages/page.js).
// Each line on stdin is an expression that the page evaluates; at its end the
// browser is closed. What the page throws, and failed scripts, go to stderr.
// Web security stays on: these pages are there to prove that CORS works.
// Needs puppeteer-core (npm), found from the current folder.

import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

const require = createRequire(join(process.cwd(), 'package.json'))
const puppeteer = require('puppeteer-core')

const [executablePath, url, headers = '{}'] = process.argv.slice(2)
const browser = await puppeteer.launch({
  executablePath,
  headless: 'shell',
  // No sandbox: as root it has none, and the pages are ours.
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'],
})
const page = await browser.newPage()
await page.setExtraHTTPHeaders(JSON.parse(headers))
page.on('console', (message) => {
  const text = message.text()
  if (text.startsWith('report:')) console.log(text.slice('report:'.length))
  else console.error(`console: ${text}`)
})
page.on('pageerror', (error) => console.error(`page: ${error.message}`))
page.on('requestfailed', (request) => console.error(`failed: ${request.url()} ${request.failure()?.errorText}`))
await page.goto(url)
for await (const line of createInterface({ input: process.stdin })) {
  // The page may leave while it is evaluated: that is asked for.
  await page.evaluate(line).catch((error) => console.error(`evaluate: ${error.message}`))
}
await browser.close()
process.exit(0)
