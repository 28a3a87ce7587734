// What all pages share: where the collector is, what to send, and how to tell.

const parameters = new URLSearchParams(location.search)
const collector = parameters.get('collector')
const writeKey = 'test-key'

/** Tells the test; said at once, also when the page is about to go. */
function report(line) {
  console.log('report:' + JSON.stringify(line))
}

/** Synchronously: a page must be able to say what it sends before anything else happens. */
function vocabulary() {
  const request = new XMLHttpRequest()
  request.open('GET', '/vocabulary.json', false)
  request.send()
  return JSON.parse(request.responseText)
}

function script(path) {
  return new Promise((resolve, reject) => {
    const element = document.createElement('script')
    element.src = path
    element.onload = resolve
    element.onerror = () => reject(new Error(`cannot load ${path}`))
    document.head.append(element)
  })
}

/** Leaves the page without waiting for anything. */
function leave() {
  location.href = '/left.html'
}
