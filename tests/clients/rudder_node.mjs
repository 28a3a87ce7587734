// RudderStack's own Node SDK, unmodified, against a collector.
//
//     node rudder_node.mjs URL N [WRITE_KEY]
//
// Sends N messages that go through the whole vocabulary, waits until the SDK
// has delivered them, and prints one JSON line for each: {"messageId", "type",
// "event"}. Exits 1 where the SDK reports an error. It drops a batch after
// three retries, about 1.5 s.
// Needs @rudderstack/rudder-sdk-node 3.0.13 (npm), found from the current folder.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'

const require = createRequire(join(process.cwd(), 'package.json'))
const Analytics = require('@rudderstack/rudder-sdk-node')
const { tracks, context } = JSON.parse(readFileSync(new URL('vocabulary.json', import.meta.url), 'utf8'))

const [url, count, writeKey = 'test-key'] = process.argv.slice(2)
let failed = false
const fail = (error) => {
  failed = true
  console.error('error:', String(error))
}
const analytics = new Analytics(writeKey, { dataPlaneUrl: url, logLevel: 'silly', errorHandler: fail })

// The SDK names its messages itself: what it handed over tells the ids.
const delivered = new Map()
let left = Number(count)
let drained
const empty = new Promise((resolve) => (drained = resolve))
const done = (error, data) => {
  if (error) fail(error)
  else for (const message of JSON.parse(gunzipSync(data)).batch) delivered.set(message.messageId, message)
  if (--left === 0) drained()
}

for (let n = 0; n < Number(count); n++) {
  const ids = { userId: `node-user-${n % 31}`, anonymousId: `node-visitor-${n % 97}`, context }
  const kind = n % (tracks.length + 5)
  const [event, properties] = tracks[kind] ?? []
  if (event) analytics.track({ ...ids, event, properties }, done)
  else {
    [
      () => analytics.page({ ...ids, name: 'Home', category: 'Shop', properties: { url: 'https://shop.example/' } }, done),
      () => analytics.screen({ ...ids, name: 'Cart', properties: { a: 1 } }, done),
      () => analytics.identify({ ...ids, traits: { plan: 'gold' } }, done),
      () => analytics.group({ ...ids, groupId: `group-${n}`, traits: { name: 'Club' } }, done),
      () => analytics.alias({ userId: ids.userId, previousId: ids.anonymousId, context }, done),
    ][kind - tracks.length]()
  }
}
while (analytics.queue.length > 0) await analytics.flush()
await empty
for (const { messageId, type, event = null } of delivered.values()) console.log(JSON.stringify({ messageId, type, event }))
process.exit(failed ? 1 : 0)
