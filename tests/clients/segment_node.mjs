// Segment's own Node SDK, unmodified, against a collector.
//
//     node segment_node.mjs URL N [WRITE_KEY]
//
// Sends N messages that go through the whole vocabulary, waits until the SDK
// has delivered them, and prints one JSON line for each: {"messageId", "type",
// "event"}. Exits 1 where the SDK reports an error.
// Needs @segment/analytics-node 3.1.0 (npm), found from the current folder.

import { createRequire } from 'node:module'
import { join } from 'node:path'

const require = createRequire(join(process.cwd(), 'package.json'))
const { Analytics } = require('@segment/analytics-node')

const product = {
  product_id: 'p-17', sku: 'S17', category: 'Shoes', name: 'Runner', brand: 'Fleet', variant: 'red',
  price: 59.9, quantity: 1, coupon: 'MAY', position: 3,
  url: 'https://shop.example/p/17', image_url: 'https://shop.example/p/17.jpg',
}
const order = {
  order_id: 'o-4711', checkout_id: 'c-1', affiliation: 'web', subtotal: 119.8, total: 130.3,
  revenue: 119.8, shipping: 4.5, tax: 6, discount: 0, coupon: 'MAY', currency: 'EUR',
  products: [product],
}
const tracks = [
  ['Products Searched', { query: 'running shoes' }],
  ['Product List Viewed', { list_id: 'l-1', category: 'Shoes', products: [product] }],
  ['Product List Filtered', { list_id: 'l-1', filters: [{ type: 'color', value: 'red' }] }],
  ['Promotion Viewed', { promotion_id: 'pr-1', creative: 'top', name: 'Sale', position: 'home' }],
  ['Promotion Clicked', { promotion_id: 'pr-1', creative: 'top', name: 'Sale', position: 'home' }],
  ['Product Clicked', product],
  ['Product Viewed', { ...product, currency: 'EUR', value: 59.9 }],
  ['Product Added', { ...product, cart_id: 'k-1' }],
  ['Product Removed', { ...product, cart_id: 'k-1' }],
  ['Cart Viewed', { cart_id: 'k-1', products: [product] }],
  ['Checkout Started', order],
  ['Checkout Step Viewed', { checkout_id: 'c-1', step: 1 }],
  ['Checkout Step Completed', { checkout_id: 'c-1', step: 1, shipping_method: 'DHL' }],
  ['Payment Info Entered', { checkout_id: 'c-1', order_id: 'o-4711', payment_method: 'card' }],
  ['Order Completed', order],
  ['Order Updated', order],
  ['Order Refunded', { order_id: 'o-4711', total: 30, currency: 'EUR', products: [product] }],
  ['Order Cancelled', order],
  ['Coupon Entered', { order_id: 'o-4711', cart_id: 'k-1', coupon_id: 'MAY' }],
  ['Coupon Applied', { order_id: 'o-4711', cart_id: 'k-1', coupon_id: 'MAY', discount: 5 }],
  ['Coupon Denied', { cart_id: 'k-1', coupon_id: 'JUNE', reason: 'expired' }],
  ['Coupon Removed', { cart_id: 'k-1', coupon_id: 'MAY', discount: 5 }],
  ['Product Added to Wishlist', { ...product, wishlist_id: 'w-1' }],
  ['Product Removed from Wishlist', { ...product, wishlist_id: 'w-1' }],
  ['Wishlist Product Added to Cart', { ...product, wishlist_id: 'w-1', cart_id: 'k-1' }],
  ['Product Shared', { ...product, share_via: 'email' }],
  ['Cart Shared', { cart_id: 'k-1', share_via: 'email', products: [{ product_id: 'p-17' }] }],
  ['Product Reviewed', { product_id: 'p-17', review_id: 'r-1', rating: '5' }],
  ['Viewed Product', { id: 'p-17', sku: 'S17', name: 'Runner', price: 59.9 }],
  ['Viewed Product Category', { category: 'Shoes' }],
  ['Added Product', product],
  ['Removed Product', product],
  ['Completed Order', order],
  ['Newsletter Opened', { issue: 7, größe: 'ü 😀', nested: { a: [1, 2.5, null, true] } }],
]
const context = {
  userAgent: 'Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0',
  locale: 'de-DE',
  timezone: 'Europe/Berlin',
  ip: '192.0.2.7',
  campaign: { name: 'spring', source: 'news', medium: 'email', term: 't', content: 'c' },
  page: { url: 'https://shop.example/p/17?a=1', title: 'Runner', referrer: 'https://g.example/' },
  screen: { width: 1920, height: 1080, density: 2 },
}

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
