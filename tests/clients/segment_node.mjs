// Segment's own Node SDK, unmodified, against a collector.
//
//     node segment_node.mjs URL N [WRITE_KEY]
//
// Sends N messages that go through the whole vocabulary, waits until the SDK
// has delivered them, and prints one JSON line for each: {"messageId", "type",
// "event"}. Exits 1 where the SDK reports an error.
// Needs @segment/analytics-node 3.1.0 (npm), found from the current folder.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(join(process.cwd(), 'package.json'))
const { Analytics } = require('@segment/analytics-node')

const { tracks, context } = JSON.parse(readFileSync(new URL('vocabulary.json', import.meta.url), 'utf8'))

const [url, count, writeKey = 'test-key'] = process.argv.slice(2)
const analytics = new Analytics({ writeKey, host: url, maxEventsInBatch: 15, flushInterval: 200 })
let failed = false
analytics.on('error', (error) => {
  failed = true
  console.error('error:', error.code, String(error.reason ?? ''))
})

// What the SDK made of each call, with the id that it gave it.
const done = (ctx, reject, resolve) => (error, result) => (error ? reject(error) : resolve(result))
const call = (method, message) =>
  new Promise((resolve, reject) => analytics[method](message, done(message, reject, resolve)))

async function send(n) {
  const ids = { userId: `node-user-${n % 31}`, anonymousId: `node-visitor-${n % 97}`, context }
  const kind = n % (tracks.length + 5)
  if (kind < tracks.length) {
    const [event, properties] = tracks[kind]
    return call('track', { ...ids, event, properties })
  }
  switch (kind - tracks.length) {
    case 0:
      return call('page', { ...ids, name: 'Home', category: 'Shop', properties: { url: 'https://shop.example/' } })
    case 1:
      return call('screen', { ...ids, name: 'Cart', properties: { a: 1 } })
    case 2:
      return call('identify', { ...ids, traits: { plan: 'gold' } })
    case 3:
      return call('group', { ...ids, groupId: `group-${n}`, traits: { name: 'Club' } })
    default:
      return call('alias', { userId: ids.userId, previousId: ids.anonymousId, context })
  }
}

const calls = Array.from({ length: Number(count) }, (_, n) => send(n))
const settled = await Promise.allSettled(calls)
await analytics.closeAndFlush({ timeout: 120_000 })
for (const { status, value, reason } of settled) {
  if (status === 'rejected') {
    failed = true
    console.error('error:', String(reason?.message ?? reason))
    continue
  }
  const { messageId, type, event = null } = value.event
  console.log(JSON.stringify({ messageId, type, event }))
}
process.exit(failed ? 1 : 0)
