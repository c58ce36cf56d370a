# List prices in us-east-1 in US dollars, on demand, Linux. Check them: they change.
prices = {
  instance_hour = {
    "m7i.xlarge"  = 0.2016
    "c7i.xlarge"  = 0.1785
    "c7i.2xlarge" = 0.357
    "g5.xlarge"   = 1.006
    "g6.xlarge"   = 0.8048
    "g6e.xlarge"  = 1.861
  }
}
