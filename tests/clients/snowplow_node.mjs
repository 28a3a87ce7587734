// Snowplow's own Node tracker, unmodified, against a collector.
//
//     node snowplow_node.mjs URL N [get|post]
//
// Sends N events that go through the whole vocabulary, waits until the tracker
// has delivered them, and prints one JSON line for each: {"messageId", "type",
// "event"}: its eid, its `e` parameter, and what was tracked. A failed request
// is sent again with the next event or flush only: the tracker has no timer.
// Needs @snowplow/node-tracker 4.8.0 (npm), found from the current folder.

import { createRequire } from 'node:module'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'

const require = createRequire(join(process.cwd(), 'package.json'))
const snowplow = require('@snowplow/node-tracker')

const [url, count, eventMethod = 'post'] = process.argv.slice(2)
const delivered = new Set()
const tracker = snowplow.newTracker(
  { namespace: 'node', appId: 'shop-from-client', encodeBase64: true },
  {
    endpoint: url, eventMethod, bufferSize: 10,
    onRequestSuccess: (payloads) => payloads.forEach((payload) => delivered.add(payload.eid)),
  },
)
tracker.setUserId('sp-user-1')
tracker.setDomainUserId('sp-visitor-1')
tracker.setSessionId('sp-session-1')
tracker.setScreenResolution(1920, 1080)
tracker.setTimezone('Europe/Berlin')
tracker.setLang('de-DE')
tracker.setUseragent('Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0')

const iglu = (name, version, data) => ({ schema: `iglu:com.snowplowanalytics.snowplow${name}/jsonschema/${version}`, data })
const webPage = iglu('/web_page', '1-0-0', { id: 'w-1' })
const product = (more) => iglu('.ecommerce/product', '1-0-0', {
  id: 'p-17', name: 'Runner', category: 'Shoes', price: 59.9, currency: 'EUR', brand: 'Fleet', variant: 'red', quantity: 2, ...more,
})
const cart = iglu('.ecommerce/cart', '1-0-0', { cart_id: 'k-1', total_value: 119.8, currency: 'EUR' })
const action = (type, ...entities) => [
  snowplow.buildSelfDescribingEvent({ event: iglu('.ecommerce/snowplow_ecommerce_action', '1-0-2', { type }) }), entities,
]
const page = { pageUrl: 'https://shop.example/p/17?utm_source=news', pageTitle: 'Runner', referrer: 'https://g.example/' }
// The name says what is expected in event_name; `other` is an event of no canonical kind.
const vocabulary = [
  ['page_view', () => [snowplow.buildPageView(page)]],
  ['page_ping', () => [snowplow.buildPagePing({ ...page, minXOffset: 0, maxXOffset: 10, minYOffset: 0, maxYOffset: 900 })]],
  ['other', () => [snowplow.buildStructEvent({ category: 'video', action: 'play', label: 'l', property: 'p', value: 1.5 })]],
  ['other', () => [snowplow.buildSelfDescribingEvent({ event: { schema: 'iglu:example.shop/newsletter/jsonschema/1-0-0', data: { größe: 'ü 😀' } } })]],
  ['product_view', () => action('product_view', product())],
  ['product_list_view', () => action('list_view', product({ position: 1 }), product({ id: 'p-18', position: 2 }))],
  ['product_click', () => action('list_click', product({ position: 1 }))],
  ['add_to_cart', () => action('add_to_cart', product(), cart)],
  ['remove_from_cart', () => action('remove_from_cart', product(), cart)],
  ['promotion_view', () => action('promo_view', iglu('.ecommerce/promotion', '1-0-0', { id: 'pr-1', name: 'Sale' }))],
  ['promotion_click', () => action('promo_click', iglu('.ecommerce/promotion', '1-0-0', { id: 'pr-1', name: 'Sale' }))],
  ['checkout_step', () => action('checkout_step', iglu('.ecommerce/checkout_step', '1-0-0', { step: 1, payment_method: 'card' }))],
  ['purchase', () => action('transaction', product(), iglu('.ecommerce/transaction', '1-0-0', {
    transaction_id: 'o-4711', revenue: 130.3, currency: 'EUR', payment_method: 'card', tax: 6, shipping: 4.5, total_quantity: 2,
  }))],
  ['refund', () => action('refund', product(), iglu('.ecommerce/refund', '1-0-0', { transaction_id: 'o-4711', refund_amount: 30, currency: 'EUR' }))],
  ['transaction_error', () => action('trns_error', iglu('.ecommerce/transaction_error', '1-0-0', { error_code: 'E1', error_type: 'hard' }))],
  ['transaction', () => [snowplow.buildEcommerceTransaction({
    orderId: 'o-4712', total: 130.3, affiliation: 'web', tax: 6, shipping: 4.5, city: 'Berlin', state: 'BE', country: 'DE', currency: 'EUR',
  })]],
  ['transaction_item', () => [snowplow.buildEcommerceTransactionItem({
    orderId: 'o-4712', sku: 'S17', name: 'Runner', category: 'Shoes', price: 59.9, quantity: 2, currency: 'EUR',
  })]],
  ['any', () => [snowplow.buildScreenView({ name: 'Cart', id: 's-1' })]],
  ['any', () => [snowplow.buildLinkClick({ targetUrl: 'https://shop.example/x', elementId: 'a' })]],
  ['any', () => [snowplow.buildSocialInteraction({ action: 'like', network: 'n', target: 't' })]],
  ['any', () => [snowplow.buildAddToCart({ sku: 'S17', quantity: 1, name: 'Runner', category: 'Shoes', unitPrice: 59.9, currency: 'EUR' })]],
  ['any', () => [snowplow.buildRemoveFromCart({ sku: 'S17', quantity: 1, name: 'Runner', category: 'Shoes', unitPrice: 59.9, currency: 'EUR' })]],
  ['any', () => [snowplow.buildSiteSearch({ terms: ['running', 'shoes'], totalResults: 3 })]],
  ['any', () => [snowplow.buildConsentGranted({ id: 'c', version: '1', name: 'all' }).event]],
]

const sent = []
for (let n = 0; n < Number(count); n++) {
  const [event, build] = vocabulary[n % vocabulary.length]
  const [builder, entities = []] = build()
  const payload = tracker.track(builder, [...entities, webPage])
  sent.push({ messageId: payload.eid, type: payload.e, event })
  // A turn for the emitter: requests then carry a few events each.
  if (n % 10 === 9) await wait(5)
}
for (let round = 0; delivered.size < sent.length; round++) {
  if (round === 600) {
    console.error(`error: ${sent.length - delivered.size} of ${sent.length} not delivered`)
    process.exit(1)
  }
  await tracker.flush()
  await wait(50)
}
for (const line of sent) console.log(JSON.stringify(line))
